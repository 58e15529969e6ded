import os

import pytest

from distilray.config.distillation import ScalingConfig
from distilray.runtime.session import ENVIRONMENT
from distilray.training.workers import START_TIMEOUT, limit_worker_start, workers_needed

OURS = ENVIRONMENT[START_TIMEOUT]


@pytest.mark.parametrize(
    ("min_workers", "set_before", "after"),
    [(None, OURS, OURS), (1, OURS, "30"), (1, "300", "300")],
    ids=["a fixed number waits for a cluster that grows", "a changing number counts again", "the user's stays"],
)
def test_elastic_workers_wait_half_a_minute_for_resources(monkeypatch, min_workers, set_before, after):
    monkeypatch.setenv(START_TIMEOUT, set_before)
    limit_worker_start(ScalingConfig(num_workers=2, min_workers=min_workers))
    assert os.environ[START_TIMEOUT] == after


@pytest.mark.parametrize(
    ("min_workers", "count"), [(None, 2), (1, 1)], ids=["a fixed number needs all", "a changing number the fewest"]
)
def test_training_starts_when_the_cluster_has_capacity_for_its_workers(min_workers, count):
    scaling = ScalingConfig(num_workers=2, min_workers=min_workers, use_gpu=True, cpus_per_worker=4)
    need = workers_needed(scaling)
    assert (need.count, need.bundle()) == (count, {"CPU": 4, "GPU": 1})
