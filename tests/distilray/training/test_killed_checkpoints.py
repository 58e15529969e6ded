"""The checkpoints of a run that is killed at any change of the disk, or of which some are broken."""

import itertools
import os
from pathlib import Path

import pytest
import torch

from distilray.pretraining_data.sample_plan import PlanState
from distilray.training.checkpoint import CheckpointStore, Snapshot, TrainingState
from tests.distilray.interruptions import KilledError, killed_at_change

LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 1.5, 6: 1.2}  # the best is neither the first nor the newest
LAST = max(LOSSES)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def state(step):
    return TrainingState(step, PlanState(0, step), "a-config", metrics={"loss": LOSSES[step]})


def snapshot(step):
    tensors = [{name: torch.full((3,), value + step)} for name, value in (("weight", 0.0), ("weight/exp_avg", 0.5))]
    return Snapshot(state(step), *tensors, {"config.json": b"{}", "tokenizer.json": b"{}"})


def open_store(folder, keep=2):
    return CheckpointStore(str(folder), keep=keep, config_hash="a-config", notice=lambda _: None)


def train(folder, *, last=LAST, keep=2):
    """Resume from the newest checkpoint, and save one after each step."""
    store = open_store(folder, keep)
    newest = store.newest()
    for step in range(1 + (newest.step if newest else 0), last + 1):
        store.save(snapshot(step))
    store.wait()


def files_of(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_that_is_killed_at_any_change_of_the_disk_resumes_from_its_last_whole_checkpoint(tmp_path):
    train(tmp_path / "whole")
    for number in itertools.count():
        folder = tmp_path / str(number)
        with killed_at_change(number) as changed:
            try:
                train(folder, last=LAST - 1)
                break
            except KilledError:
                pass
        saved = [step for step in LOSSES if any(each.endswith(f"{step:07d}/state.json") for each in changed)]
        store = open_store(folder)
        assert store.newest() == (state(saved[-1]) if saved else None)
        assert store.best() == min(saved, key=LOSSES.get, default=None)
        assert all(store.is_intact(step) for step in {*saved[-1:], store.best()} - {None})
        train(folder)
        assert files_of(folder) == files_of(tmp_path / "whole"), changed[-1:]
    assert number > 20


DAMAGES = {
    "absent": lambda folder: [file.unlink() for file in folder.iterdir()],
    "no end": lambda folder: (folder / "state.json").unlink(),
    "torn end": lambda folder: (folder / "state.json").write_bytes(b'{"schema"'),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "torn moments": lambda folder: (folder / "optimizer.safetensors").write_bytes(b"torn"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("broken", [{3}, {2}, {1, 3}, {2, 3}, {1, 2, 3}], ids=str)
def test_a_run_resumes_from_the_newest_whole_checkpoint_whichever_are_broken(tmp_path, broken, damage):
    train(tmp_path, last=3, keep=3)
    for step in broken:
        DAMAGES[damage](Path(open_store(tmp_path).path(step)))
    whole = {1, 2, 3} - broken
    assert open_store(tmp_path).newest() == (state(max(whole)) if whole else None)
    train(tmp_path, keep=3)
    store = open_store(tmp_path)
    assert store.newest() == state(LAST)
    assert all(store.is_intact(step) for step in (4, 5, 6))


@pytest.mark.parametrize("damage", sorted(set(DAMAGES) - {"absent"}))
def test_a_broken_checkpoint_never_displaces_one_that_is_saved_before_its_step(tmp_path, damage):
    train(tmp_path, keep=6)
    for step in (3, 5, 6):
        DAMAGES[damage](Path(open_store(tmp_path).path(step)))
    (tmp_path / "step-0000004/state.json").unlink()
    train(tmp_path, last=3, keep=1)  # from 2
    assert open_store(tmp_path).newest() == state(3)
