"""Resuming from the newest checkpoint on every worker."""

import copy

import pytest
import torch

from distilray.config.distillation import OptimizerConfig
from distilray.errors import InputError
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.sample_plan import SamplePlan
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.training.checkpoint import BrokenCheckpointError, CheckpointStore
from distilray.training.checkpoint_hook import CheckpointHook
from distilray.training.loop import Step, Stop
from distilray.training.optimizer import Update, Updater, create_optimizer
from distilray.training.process_group import Workers
from tests.distilray.training.threaded_workers import run_together


@pytest.fixture(scope="module")
def model(teacher_dir):
    return load_masked_lm(teacher_dir)


@pytest.fixture
def create_hook(model, teacher_dir, tmp_path):
    """Create the hook of a worker that has completed one step in fp16."""

    def hook(workers=None, batch_size=4):
        own = copy.deepcopy(model)
        optimizer = create_optimizer(own, OptimizerConfig())
        updater = Updater(own, optimizer, lambda _: 1.0, max_grad_norm=1.0, uses_fp16=True)
        updater.scale_loss(sum(parameter.sum() for parameter in own.parameters())).backward()
        updater.update(0, float(updater.clip_gradients()))
        return CheckpointHook(
            CheckpointStore(str(tmp_path), keep=2, config_hash="a-config", notice=lambda _: None),
            workers or Workers.single(),
            own,
            updater,
            SamplePlan((20,), batch_size, seed=1),
            "a-config",
            read_tokenizer(teacher_dir),
            every_steps=2,
        )

    return hook


@pytest.fixture
def saved(create_hook):
    """A hook that has written the checkpoint of step 2."""
    hook = create_hook()
    hook.updater.skipped, hook.updater.skipped_in_a_row = 5, 2
    hook.updater.load_scaler_state({**hook.updater.scaler_state(), "scale": 8.0, "_growth_tracker": 3})
    hook.scores["loss"] = 1.5
    assert hook.after_step(step(2)) is None
    hook.store.wait()
    return hook


def step(done, total=8, **changes):
    return Step(done, total, {}, None, [], torch.empty(0), Update(1.0, 1.0, False), **changes)


def test_resuming_restores_counts_loss_scale_scores_and_step(create_hook, saved):
    resumed = create_hook()
    assert resumed.restore() == 2
    assert (resumed.updater.skipped, resumed.updater.skipped_in_a_row) == (5, 2)
    assert resumed.updater.scaler_state() == saved.updater.scaler_state()
    assert resumed.scores == {"loss": 1.5}


def test_a_run_without_a_checkpoint_starts_at_step_0(create_hook):
    assert create_hook().restore() == 0


def test_a_checkpoint_of_other_examples_is_refused(create_hook, saved):
    with pytest.raises(BrokenCheckpointError, match="belongs to another run"):
        create_hook(batch_size=5).restore()


@pytest.mark.parametrize("last", [step(8), step(3, checkpoint_now=True)], ids=["the last step", "on request"])
def test_the_checkpoint_of_the_last_step_is_complete_when_training_ends(create_hook, last):
    hook = create_hook()
    assert hook.after_step(last) is None
    assert hook.store.is_idle
    assert hook.store.newest().step == last.done


def test_checkpoints_are_written_every_few_steps(create_hook):
    hook = create_hook()
    for done in range(1, 6):
        hook.after_step(step(done))
    hook.store.wait()
    assert hook.store.steps() == [2, 4]


def test_all_workers_resume_from_the_step_of_the_first_one(create_hook, saved):
    def restore(workers):
        hook = create_hook(workers)
        if workers.rank > 0:
            hook.store.newest = None  # must not be called
        return hook.restore()

    assert run_together(2, restore) == [2, 2]


def test_all_workers_stop_when_the_first_one_cannot_write(create_hook):
    def write(workers):
        def save(snapshot):
            raise InputError("the disk is full")

        hook = create_hook(workers)
        hook.store.save = save
        return hook.after_step(step(2))

    assert run_together(2, write) == [Stop("checkpoint", "the disk is full")] * 2
