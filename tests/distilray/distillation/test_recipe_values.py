"""Effect of recipe values on Ray Train, evaluation, checkpoints and models."""

import pytest
import torch
from ray.train.torch import TorchTrainer

from distilray.config.cache_teacher import CacheTeacherConfig
from distilray.config.distillation import DistillConfig
from distilray.distillation import cache_teacher
from distilray.distillation.distill import distill
from distilray.distillation.inputs import create_student_and_teacher
from distilray.runtime import resources
from distilray.runtime.resources import Node
from distilray.runtime.run_folder import RunFolder
from tests.distilray.interruptions import tasks_in_process


class StopTestError(Exception):
    """Ends the job in the call under test."""


@pytest.mark.parametrize(
    ("scaling", "workers", "bundle"),
    [
        ({}, 2, {"CPU": 3, "GPU": 1}),
        ({"use_gpu": False}, 2, {"CPU": 3}),
        ({"min_workers": 1}, (1, 2), {"CPU": 3, "GPU": 1}),
    ],
    ids=["GPUs", "CPUs", "elastic"],
)
def test_scaling_and_fault_tolerance_reach_ray_train(
    monkeypatch, tmp_path, teacher_dir, shards_dir, scaling, workers, bundle
):
    def stop(trainer):
        raise StopTestError(trainer)

    monkeypatch.setattr(TorchTrainer, "fit", stop)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr(resources, "cluster_nodes", lambda: [Node({"CPU": 64.0, "GPU": 8.0})])
    values = {"run_dir": str(tmp_path / "run"), "teacher_dir": teacher_dir, "shards_dir": shards_dir, "max_steps": 2}
    values |= {"batch_size": 16, "scaling": {"num_workers": 2, "cpus_per_worker": 3, **scaling}}
    values["fault_tolerance"] = {"max_failures": 7, "preemption_grace_s": 45.0}
    config = DistillConfig.model_validate(values)
    with pytest.raises(StopTestError) as error:
        distill(config, RunFolder("distill", config, {}))
    (trainer,) = error.value.args
    failures = trainer.run_config.failure_config
    assert (failures.max_failures, failures.preemption_grace_s, failures.max_preemption_failures) == (7, 45.0, -1)
    assert trainer.scaling_config.num_workers == workers
    assert trainer.scaling_config.resources_per_worker == bundle
    assert trainer.scaling_config.use_gpu == ("GPU" in bundle)


def test_evaluation_uses_the_configured_number_of_heldout_examples(fit):
    few, many, every = (fit(1, intervals={"heldout_examples": count}).heldout for count in (3, 1_000_000, None))
    assert few[0] != many[0] == every[0]


def test_evaluations_and_checkpoints_follow_their_intervals(fit):
    intervals = {"evaluate_every_steps": 2, "checkpoint_every_steps": 3, "keep_checkpoints": 1}
    run = fit(7, intervals=intervals, optimizer={"learning_rate": 1e-5})
    assert [row["step"] for row in run.heldout] == [0, 2, 4, 6, 7]
    steps = {int(folder.name.removeprefix("step-")) for folder in run.folder.glob("checkpoints/step-*")}
    assert 7 in steps
    assert len(steps) <= 2  # the newest and the best
    assert steps <= {3, 6, 7}


@pytest.mark.parametrize(("every", "polls"), [(1, 5), (2, 2), (4, 1)])
def test_preemptions_are_polled_at_their_interval(fit, monkeypatch, every, polls):
    calls = []
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: calls.append(1))
    fit(6, intervals={"poll_preemption_every_steps": every})
    assert len(calls) == polls


@pytest.fixture
def remote_shards(monkeypatch, tmp_path):
    """Treat shards as remote files; returns the cache for their copies."""
    monkeypatch.setattr("distilray.runtime.storage.is_local", lambda uri: not uri.endswith(".arrow"))
    return {"directory": str(tmp_path / "cache"), "max_gb": 7.0}


def test_a_run_copies_remote_shards_of_both_splits_into_its_cache(fit, remote_shards, tmp_path):
    fit(1, cache=remote_shards)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) >= 2


def test_cache_teacher_copies_remote_shards_into_its_cache(teacher_dir, shards_dir, tmp_path, remote_shards):
    values = {"run_dir": str(tmp_path / "run"), "shards_dir": shards_dir, "teacher_dir": teacher_dir, "top_k": 4}
    config = CacheTeacherConfig.model_validate({**values, "cache": remote_shards, "scaling": {"gpus_per_task": 0}})
    with tasks_in_process(cache_teacher):
        cache_teacher.cache_teacher(config, RunFolder("cache_teacher", config, {}))
    assert list((tmp_path / "cache").glob("*.arrow"))


def test_dropout_and_activation_checkpointing_are_set_in_the_model(fit):
    model = fit(1, dropout=0.25, activation_checkpointing=True).model
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("fold", [True, False])
def test_the_segment_vector_is_folded_into_the_student_if_configured(teacher_dir, fold):
    values = {"run_dir": "-", "shards_dir": "-", "teacher_dir": teacher_dir, "student": {"fold_segment_a": fold}}
    student, teacher = create_student_and_teacher(DistillConfig.model_validate(values))
    own, other = (model.base_model.embeddings.position_embeddings.weight for model in (student, teacher))
    segment_a = teacher.base_model.embeddings.token_type_embeddings.weight[0]
    torch.testing.assert_close(own, other + segment_a if fold else other)
