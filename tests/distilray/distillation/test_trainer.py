import os

import pytest

from distilray.config.distillation import DistillConfig, ScalingConfig
from distilray.distillation import trainer
from distilray.distillation.trainer import START_TIMEOUT, bound_start
from distilray.errors import InputError
from distilray.runtime.session import ENVIRONMENT

OURS = ENVIRONMENT[START_TIMEOUT]


@pytest.mark.parametrize(
    ("min_workers", "set_before", "after"),
    [(None, OURS, OURS), (1, OURS, "30"), (1, "300", "300")],
    ids=["a fixed number waits for a cluster that grows", "a changing number counts again", "the user's stays"],
)
def test_how_long_workers_wait_for_their_places(monkeypatch, min_workers, set_before, after):
    monkeypatch.setenv(START_TIMEOUT, set_before)
    bound_start(ScalingConfig(num_workers=2, min_workers=min_workers))
    assert os.environ[START_TIMEOUT] == after


@pytest.fixture
def check(monkeypatch):
    """Checks the resources of two workers on a cluster with one CPU."""
    monkeypatch.setattr(trainer.ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.delenv("RAY_JOB_ID", raising=False)

    def run(**scaling):
        scaling = {"num_workers": 2, "use_gpu": False, "cpus_per_worker": 1, **scaling}
        values = {"run_dir": "unused", "shards_dir": "unused", "teacher_dir": "unused", "scaling": scaling}
        trainer._check_resources(DistillConfig.model_validate(values))

    return run


def test_a_changing_number_of_workers_may_begin_with_the_fewest(check):
    check(min_workers=1)


def test_a_fixed_number_of_workers_that_does_not_fit_is_refused(check):
    with pytest.raises(InputError, match="2 workers need 2 CPU, the local cluster has 1"):
        check()
