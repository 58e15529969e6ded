import os

import pytest

from distilray.config.distillation import ScalingConfig
from distilray.runtime.session import ENVIRONMENT
from distilray.training.workers import START_TIMEOUT, limit_worker_start, workers_needed

DEFAULT = ENVIRONMENT[START_TIMEOUT]


@pytest.mark.parametrize(
    ("min_workers", "before", "after", "needed"),
    [(None, DEFAULT, DEFAULT, 2), (1, DEFAULT, "30", 1), (1, "300", "300", 1)],
    ids=["a fixed number", "elastic", "elastic with a limit of the user"],
)
def test_elastic_workers_start_with_the_fewest_and_wait_half_a_minute_for_more(
    monkeypatch, min_workers, before, after, needed
):
    monkeypatch.setenv(START_TIMEOUT, before)
    scaling = ScalingConfig(num_workers=2, min_workers=min_workers, use_gpu=True, cpus_per_worker=4)
    limit_worker_start(scaling)
    assert os.environ[START_TIMEOUT] == after
    need = workers_needed(scaling)
    assert (need.count, need.bundle()) == (needed, {"CPU": 4, "GPU": 1})
