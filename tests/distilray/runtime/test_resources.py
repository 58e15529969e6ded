"""Needs of jobs on nodes with fixed resources. tests/rehearsal covers waiting for a real cluster."""

import pytest

from distilray.errors import InputError
from distilray.runtime.resources import GIB, Need, Node, check_capacity


def node(cpus, gpus=0, gib=64.0, **labels):
    return Node({"CPU": cpus, "GPU": gpus, "memory": gib * GIB}, labels)


def need(cpus=0, gpus=0.0, memory=0, **changes):
    return Need("worker", "lower scaling.num_workers", cpus=cpus, gpus=gpus, memory=memory, **changes)


@pytest.mark.parametrize(
    ("nodes", "need", "expected"),
    [
        ([node(8)], need(1, memory=GIB), 8),
        ([node(8)], need(3), 2),
        ([node(8)], need(0.5), 16),
        ([node(3), node(3)], need(2), 2),  # not 3: a bundle is placed on one node
        ([node(8, gib=5)], need(1, memory=2 * GIB), 2),
        ([node(8, gpus=2)], need(1, 0.25), 8),
        ([node(32, gpus=2)], need(1, 0.4), 4),  # not 5: a fraction stays on one GPU
        ([node(32, gpus=8)], need(4, 2.0), 4),
        ([node(2), node(8, gpus=1)], need(1, 1), 1),
        ([node(8, role="train"), node(4, role="data")], need(1, labels={"role": "data"}), 4),
        ([node(8)], need(1, labels={"role": "data"}), 0),
        ([], need(1), 0),
    ],
)
def test_bundles_are_counted_as_ray_places_them(nodes, need, expected):
    assert need.count_fitting(nodes) == expected


@pytest.mark.parametrize(
    ("nodes", "count", "named"),
    [
        ([node(1)], 2, "no room for 2 workers with 1 CPU: the local cluster has 1 CPU; lower scaling.num_workers"),
        ([node(1)], 1, None),
        ([node(4), node(4)], 8, None),
    ],
)
def test_a_local_cluster_refuses_what_it_can_never_hold(nodes, count, named):
    if named is None:
        check_capacity(need(1, count=count), nodes)
        return
    with pytest.raises(InputError) as refusal:
        check_capacity(need(1, count=count), nodes)
    assert str(refusal.value) == named
