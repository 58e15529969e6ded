"""Needs of jobs on nodes with fixed resources; tests/rehearsal covers waiting for a real cluster."""

import pytest

from distilray.errors import InputError
from distilray.runtime.resources import GIB, Need, Node, check_capacity


def node(cpus, gpus=0, gib=64.0, **labels):
    return Node({"CPU": cpus, "GPU": gpus, "memory": gib * GIB}, labels)


def need(cpus=0, gpus=0.0, gib=0, **changes):
    return Need("worker", "lower scaling.num_workers", cpus=cpus, gpus=gpus, memory=gib * GIB, **changes)


@pytest.mark.parametrize(
    ("nodes", "need", "expected"),
    [
        ([node(8)], need(1, gib=1), 8),
        ([node(8)], need(3), 2),
        ([node(8)], need(0.5), 16),
        ([node(3)], need(0.3), 10),  # despite rounding errors
        ([node(3), node(3)], need(2), 2),  # not 3: a bundle is on one node
        ([node(8, gib=5)], need(1, gib=2), 2),
        ([node(8, gpus=2)], need(1, 0.25), 8),
        ([node(32, gpus=2)], need(1, 0.4), 4),  # not 5: a fraction is on one GPU
        ([node(32, gpus=8)], need(4, 2.0), 4),
        ([node(2), node(8, gpus=1)], need(1, 1), 1),
        ([node(8, role="train"), node(4, role="data")], need(1, labels={"role": "data"}), 4),
        ([node(8)], need(1, labels={"role": "data"}), 0),
        ([], need(1), 0),
    ],
)
def test_bundles_are_counted_as_ray_places_them(nodes, need, expected):
    assert need.count_fitting(nodes) == expected


def test_a_local_cluster_refuses_only_needs_that_exceed_it():
    check_capacity(need(1, count=1), [node(1)])
    check_capacity(need(1, count=8), [node(4), node(4)])
    message = "no room for 2 workers with 1 CPU: the local cluster has 1 CPU; lower scaling.num_workers"
    with pytest.raises(InputError, match=f"^{message}$"):
        check_capacity(need(1, count=2), [node(1)])


@pytest.mark.parametrize(
    ("need", "text"),
    [
        (Need("worker", "", cpus=4, gpus=1, count=2), "2 workers with 4 CPU, 1 GPU"),
        (Need("worker", "", cpus=0.5), "1 worker with 0.5 CPU"),
        (need(1, gib=2, labels={"role": "data"}), "1 worker with 1 CPU, 2.0 GiB of memory on nodes with role=data"),
    ],
)
def test_a_need_is_described_by_its_bundles_and_labels(need, text):
    assert str(need) == text
