"""Recipe values of training: they reach Ray Train, the scores and the intervals of a run."""

import json
from pathlib import Path

import pytest
import torch
from ray.train.torch import TorchTrainer

from distilray.config.distillation import CacheTeacherConfig, DistillConfig, LossConfig
from distilray.distillation import cache_teacher
from distilray.distillation.distill import distill
from distilray.distillation.heldout import HeldoutScorer
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.objective import DistillationLoss
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.runtime import resources
from distilray.runtime.resources import Node
from distilray.runtime.run_folder import RunFolder
from tests.distilray.distillation.test_heldout import plain_scores
from tests.distilray.distillation.test_setup import fit
from tests.distilray.interruptions import tasks_in_process
from tests.tiny.shards import open_shards


class ReachedError(Exception):
    """Raised by the call under test, to end the test there."""


@pytest.fixture
def trainer_of(monkeypatch, tmp_path, teacher_dir, shards_dir):
    """Arguments that Ray Train receives for a recipe."""

    def run(**changes):
        def reached(self):
            raise ReachedError(self)

        monkeypatch.setattr(TorchTrainer, "fit", reached)
        monkeypatch.setattr("ray.is_initialized", lambda: True)
        monkeypatch.setattr(resources, "cluster_nodes", lambda: [Node({"CPU": 64.0, "GPU": 8.0})])
        folders = {"run_dir": str(tmp_path / "run"), "teacher_dir": teacher_dir, "shards_dir": shards_dir}
        scaling = {"num_workers": 2, "cpus_per_worker": 3, **changes.pop("scaling", {})}
        values = {**folders, "batch_size": 16, "max_steps": 2, "scaling": scaling, **changes}
        config = DistillConfig.model_validate(values)
        with pytest.raises(ReachedError) as error:
            distill(config, RunFolder("distill", config, {}))
        return error.value.args[0]

    return run


def test_failures_and_the_grace_of_a_preemption_reach_ray_train(trainer_of):
    trainer = trainer_of(fault_tolerance={"max_failures": 7, "preemption_grace_s": 45.0})
    failures = trainer.run_config.failure_config
    assert (failures.max_failures, failures.preemption_grace_s) == (7, 45.0)


@pytest.mark.parametrize(("min_workers", "expected"), [(None, 2), (1, (1, 2))])
def test_the_number_of_workers_reaches_ray_train(trainer_of, min_workers, expected):
    assert trainer_of(scaling={"min_workers": min_workers}).scaling_config.num_workers == expected


@pytest.mark.parametrize(("use_gpu", "expected"), [(True, {"CPU": 3, "GPU": 1}), (False, {"CPU": 3})])
def test_the_resources_of_a_worker_reach_ray_train(trainer_of, use_gpu, expected):
    scaling = trainer_of(scaling={"use_gpu": use_gpu}).scaling_config
    assert (scaling.resources_per_worker, scaling.use_gpu) == (expected, use_gpu)


class First:
    """First rows of shards."""

    def __init__(self, shards, rows):
        self._shards, self._rows = shards, rows

    def __len__(self):
        return self._rows

    def __getattr__(self, name):
        return getattr(self._shards, name)


@pytest.mark.parametrize("workers", [1, 2])
def test_scores_of_the_first_held_out_examples_are_theirs_alone(shards_dir, teacher_dir, workers):
    shards, teacher = open_shards(shards_dir, "heldout"), load_masked_lm(teacher_dir).requires_grad_(False).eval()
    student = create_student(teacher)[0]
    losses = LossConfig(alpha_ce=3.0, alpha_mlm=2.0, alpha_cos=0.5, temperature=2.0)  # as those of `plain_scores`
    parts = [
        HeldoutScorer(
            shards=shards,
            rank=rank,
            num_workers=workers,
            batch_size=3,
            pad_id=0,
            device=torch.device("cpu"),
            reduce=list,
            on_batch=lambda: None,
            limit=5,
        ).score(DistillationLoss(student, teacher, losses))
        for rank in range(workers)
    ]
    found = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert found == pytest.approx(plain_scores(First(shards, 5), student, teacher), rel=1e-4)


def heldout(run):
    return [json.loads(line) for line in (run / "heldout.jsonl").read_text().splitlines()]


def test_a_run_scores_as_many_held_out_examples_as_its_recipe_says(teacher_dir, shards_dir, tmp_path):
    scores = []
    for number in (3, 1_000_000, None):
        run = tmp_path / str(number)
        run.mkdir()
        fit(teacher_dir, shards_dir, tmp_path, 1, run=run, intervals={"heldout_examples": number})
        scores.append(heldout(run)[0])
    few, many, every = scores
    assert few != many == every


def test_a_run_scores_saves_and_keeps_checkpoints_at_the_intervals_of_its_recipe(teacher_dir, shards_dir, tmp_path):
    intervals = {"evaluate_every_steps": 2, "checkpoint_every_steps": 3, "keep_checkpoints": 1}
    fit(teacher_dir, shards_dir, tmp_path, 7, run=tmp_path, intervals=intervals, optimizer={"learning_rate": 1e-5})
    assert [row["step"] for row in heldout(tmp_path)] == [0, 2, 4, 6, 7]
    steps = {int(folder.name.removeprefix("step-")) for folder in (tmp_path / "checkpoints").glob("step-*")}
    assert 7 in steps
    assert len(steps) <= 2
    assert steps <= {3, 6, 7}


@pytest.mark.parametrize(("every", "polls"), [(1, 5), (2, 2), (4, 1)])
def test_a_run_asks_for_preemptions_at_the_intervals_of_its_recipe(
    teacher_dir, shards_dir, tmp_path, monkeypatch, every, polls
):
    asked = []
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: asked.append(1))
    fit(teacher_dir, shards_dir, tmp_path, 6, intervals={"poll_preemption_every_steps": every})
    assert len(asked) == polls


def test_a_run_keeps_copies_of_shards_in_the_folder_of_its_recipe(teacher_dir, shards_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("distilray.runtime.storage.is_local", lambda uri: not uri.endswith(".arrow"))
    fit(teacher_dir, shards_dir, tmp_path, 1, cache={"directory": str(tmp_path / "cache"), "max_gb": 7.0})
    opened = list((tmp_path / "cache").glob("*.arrow"))
    assert len(opened) >= 2  # of both splits


def test_dropout_and_activation_checkpointing_of_the_recipe_are_those_of_the_model(teacher_dir, shards_dir, tmp_path):
    _, model = fit(teacher_dir, shards_dir, tmp_path, 1, dropout=0.25, activation_checkpointing=True)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("fold", [True, False])
def test_the_segment_vector_is_folded_into_the_student_if_the_recipe_says_so(teacher_dir, fold):
    values = {"run_dir": "-", "shards_dir": "-", "teacher_dir": teacher_dir, "student": {"fold_segment_a": fold}}
    student, teacher = create_student_and_teacher(DistillConfig.model_validate(values))
    assert teacher is not None
    own, theirs = (model.base_model.embeddings.position_embeddings.weight for model in (student, teacher))
    segment_a = teacher.base_model.embeddings.token_type_embeddings.weight[0]
    torch.testing.assert_close(own, theirs + segment_a if fold else theirs)


def test_the_copies_of_shards_of_a_cached_teacher_are_in_the_folder_of_its_recipe(
    teacher_dir, shards_dir, tmp_path, monkeypatch
):
    given = {"directory": str(tmp_path / "cache"), "max_gb": 7.0}
    values = {"run_dir": str(tmp_path / "run"), "shards_dir": shards_dir, "teacher_dir": teacher_dir, "cache": given}
    config = CacheTeacherConfig.model_validate({**values, "top_k": 4, "scaling": {"gpus_per_task": 0}})
    monkeypatch.setattr("distilray.runtime.storage.is_local", lambda uri: not uri.endswith(".arrow"))
    with tasks_in_process(cache_teacher):
        cache_teacher.cache_teacher(config, RunFolder("cache_teacher", config, {}))
    assert list(Path(given["directory"]).glob("*.arrow"))
