import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distilray.config.distillation import OptimizerConfig
from distilray.errors import InputError
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.pretraining_data.sample_plan import PlanState
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.training.checkpoint import BrokenCheckpointError, CheckpointStore, Snapshot, TrainingState, newest_step
from distilray.training.optimizer import create_optimizer
from tests.distilray.interruptions import KilledError, killed_at_change

FILES = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json")
STATE = TrainingState(3, PlanState(epoch=1, consumed=20), "a-config", (2, 1), {"scale": 4.0}, {"loss": 2.5})


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def state_of(step, loss=None):
    return replace(STATE, step=step, metrics={} if loss is None else {"loss": loss})


def snapshot_of(step, loss=None):
    """A small checkpoint without a model."""
    weights, moments = ({name: torch.full((3,), step + shift)} for name, shift in (("a", 0.0), ("a/exp_avg", 0.5)))
    return Snapshot(state_of(step, loss), weights, moments, {"config.json": b"{}", "tokenizer.json": b"{}"})


def save(store, *snapshots):
    for snapshot in snapshots:
        store.save(snapshot)
    store.wait()


@pytest.fixture
def notices():
    return []


@pytest.fixture
def open_store(tmp_path, notices):
    """Open the checkpoints of a folder."""

    def store(folder=tmp_path, keep=3, **options):
        return CheckpointStore(str(folder), keep=keep, config_hash="a-config", notice=notices.append, **options)

    return store


@pytest.fixture
def store(open_store):
    return open_store()


# Models and optimizers.


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir)


def create_pair(teacher, **changes):
    model = create_student(teacher, **changes)[0]
    return model, create_optimizer(model, OptimizerConfig(learning_rate=1e-2, weight_decay=0.1))


def train(model, optimizer, *, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        optimizer.step()


@pytest.fixture
def trained(teacher):
    pair = create_pair(teacher)
    train(*pair, steps=3)
    return pair


@pytest.fixture
def snapshot(trained, teacher_dir):
    return Snapshot.of(*trained, STATE, read_tokenizer(teacher_dir))


@pytest.fixture
def folder(store, snapshot):
    """Folder of a checkpoint of step 3."""
    save(store, snapshot)
    return Path(store.path(3))


def assert_equal_states(result, expected):
    (model, optimizer), (expected_model, expected_optimizer) = result, expected
    for (name, tensor), other in zip(model.state_dict().items(), expected_model.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    for parameter, other in zip(model.parameters(), expected_model.parameters(), strict=True):
        moments, expected_moments = optimizer.state[parameter], expected_optimizer.state[other]
        assert moments.keys() == expected_moments.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, moment in expected_moments.items():
            assert torch.equal(moments[key], moment), key
            assert (moments[key].dtype, moments[key].device) == (moment.dtype, moment.device)


def test_restored_training_equals_uninterrupted_training(store, folder, trained, teacher):
    restored = create_pair(teacher, layers=[1, 2], fold_segment_a=False)
    assert store.newest() == store.state(3) == STATE
    store.restore(3, *restored)
    assert_equal_states(restored, trained)
    assert restored[0].vocab_projector.weight is restored[0].distilbert.embeddings.word_embeddings.weight
    for pair in (restored, trained):
        train(*pair, steps=2, seed=1)
    assert_equal_states(restored, trained)


def test_a_snapshot_is_not_changed_by_further_training(store, snapshot, trained, teacher):
    before = {name: tensor.clone() for name, tensor in trained[0].named_parameters()}
    train(*trained, steps=1)
    save(store, snapshot)
    restored = create_pair(teacher)
    store.restore(3, *restored)
    for name, parameter in restored[0].named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_resumes_from_a_checkpoint_on_a_gpu(store, folder, teacher):
    model = create_student(teacher)[0].cuda()
    optimizer = create_optimizer(model, OptimizerConfig())
    store.restore(3, model, optimizer)
    train(model, optimizer, steps=2)
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}


def test_a_checkpoint_is_a_model_folder_without_pickle(folder, trained):
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "tokenizer_config.json"])
    assert json.loads((folder / "state.json").read_text())["step"] == 3
    state = load_masked_lm(str(folder)).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in trained[0].state_dict().items())


@pytest.mark.parametrize("layers", [[0, 1, 2], [0]], ids=str)
def test_the_checkpoint_of_a_model_of_another_size_is_refused(store, folder, teacher, layers):
    with pytest.raises(BrokenCheckpointError, match=r"layer\.[12]\..* is in the model or in the file"):
        store.restore(3, *create_pair(teacher, layers=layers))


def test_checkpoints_in_an_object_store_are_restored(bucket, open_store, snapshot, trained, teacher):
    store = open_store(f"{bucket}/run/checkpoints", keep=2)
    save(store, *(replace(snapshot, state=state_of(step)) for step in (1, 2, 3)))
    assert store.steps() == [2, 3]
    assert store.newest().step == 3
    restored = create_pair(teacher, layers=[1, 2])
    store.restore(3, *restored)
    assert_equal_states(restored, trained)


# Folders of several checkpoints.


@pytest.mark.parametrize(
    ("keep", "losses", "cost", "kept", "best"),
    [
        (3, [9.0, 1.0, 5.0, 3.0, 3.0, 3.0, 4.0], None, [2, 5, 6, 7], 2),
        (3, [None] * 5, None, [3, 4, 5], None),
        (1, [9.0, 9.5, 9.5, 3.0], lambda metrics: -metrics["loss"], [2, 4], 2),
    ],
    ids=["lowest loss", "no scores", "lowest cost"],
)
def test_the_newest_checkpoints_and_the_best_one_are_kept(open_store, keep, losses, cost, kept, best):
    store = open_store(keep=keep, **({"cost": cost} if cost else {}))
    save(store, *(snapshot_of(step, loss) for step, loss in enumerate(losses, 1)))
    assert store.steps() == kept
    assert store.best() == best


def test_an_incomplete_checkpoint_is_ignored_and_removed_by_the_next_one(store, tmp_path, notices):
    assert store.newest() is None
    assert newest_step(str(tmp_path / "absent")) == 0
    save(store, snapshot_of(3), snapshot_of(12))
    Path(store.path(12), "state.json").unlink()  # as after a kill while it was written
    assert newest_step(str(tmp_path)) == store.newest().step == 3
    assert store.steps() == [3]
    assert notices == []
    left = Path(shutil.copytree(store.path(12), store.path(4)))
    save(store, snapshot_of(5))
    assert not left.exists()
    assert store.steps() == [3, 5]


def truncate(file, size):
    file.write_bytes(file.read_bytes()[:size])


def flip_byte(file, position):
    data = bytearray(file.read_bytes())
    data[int(position * len(data))] ^= 255
    file.write_bytes(data)


def change_schema(file):
    file.write_text(file.read_text().replace('"schema": 2', '"schema": 1'))


DAMAGES = {
    "missing weights": ("model.safetensors", Path.unlink),
    "missing moments": ("optimizer.safetensors", Path.unlink),
    "empty weights": ("model.safetensors", lambda file: truncate(file, 0)),
    "truncated moments": ("optimizer.safetensors", lambda file: truncate(file, -1)),
    "truncated state": ("state.json", lambda file: truncate(file, 9)),
    "another schema": ("state.json", change_schema),
    **{
        f"flipped byte at {position} of {name}": (name, lambda file, position=position: flip_byte(file, position))
        for name in ("model.safetensors", "optimizer.safetensors", "state.json")
        for position in (0.1, 0.5, 0.99)
    },
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_instead_of_a_damaged_checkpoint_the_previous_one_is_used_with_a_notice(store, notices, name, damage):
    save(store, snapshot_of(3), snapshot_of(5))
    damage(Path(store.path(5, name)))
    assert [store.is_intact(step) for step in (3, 4, 5)] == [True, False, False]
    assert store.newest() == state_of(3)
    (notice,) = notices
    assert notice.startswith(f"CHECKPOINT {store.path(5)} IS BROKEN ({name} ")
    assert notice.endswith("using the previous one")


def test_a_checkpoint_of_another_config_is_refused(store):
    save(store, replace(snapshot_of(3), state=replace(STATE, config_hash="another")))
    with pytest.raises(BrokenCheckpointError, match="another config"):
        store.newest()


def test_a_checkpoint_that_cannot_be_written_is_reported_by_the_next_call(store, tmp_path):
    (tmp_path / "step-0000003").write_text("a file at the path of the folder")
    store.save(snapshot_of(3))
    with pytest.raises(InputError, match="step-0000003"):
        store.save(snapshot_of(3))


# Interrupted runs.

LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 1.5, 6: 1.2}  # the best is neither the first nor the newest


def run(store, *, last=6):
    """Resume from the newest checkpoint, and save one after each step."""
    newest = store.newest()
    first = 1 + (newest.step if newest else 0)
    save(store, *(snapshot_of(step, LOSSES[step]) for step in range(first, last + 1)))


def files_of(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_killed_at_any_write_resumes_from_its_last_complete_checkpoint(tmp_path, open_store):
    run(open_store(tmp_path / "whole", keep=2))
    for number in itertools.count():
        folder = tmp_path / str(number)
        with killed_at_change(number) as changes:
            try:
                run(open_store(folder, keep=2), last=5)
                break
            except KilledError:
                pass
        saved = [step for step in LOSSES if any(each.endswith(f"{step:07d}/state.json") for each in changes)]
        store = open_store(folder, keep=2)
        assert store.newest() == (state_of(saved[-1], LOSSES[saved[-1]]) if saved else None)
        assert store.best() == min(saved, key=LOSSES.get, default=None)
        assert all(store.is_intact(step) for step in {*saved[-1:], store.best()} - {None})
        run(store)
        assert files_of(folder) == files_of(tmp_path / "whole"), changes[-1:]
    assert number > 20


@pytest.mark.parametrize("damage", ["missing weights", "truncated moments", "truncated state"])
@pytest.mark.parametrize("damaged", [[3], [2], [1, 3], [2, 3], [1, 2, 3]], ids=str)
def test_a_run_resumes_from_the_newest_intact_checkpoint_and_keeps_it(open_store, damage, damaged):
    store, (name, damage_file) = open_store(keep=6), DAMAGES[damage]
    run(store)
    for step in [*damaged, 5, 6]:
        damage_file(Path(store.path(step, name)))
    Path(store.path(4, "state.json")).unlink()
    intact = sorted({1, 2, 3} - set(damaged))
    assert (store.newest().step if intact else store.newest()) == (intact[-1] if intact else None)
    store = open_store(keep=1)
    run(store, last=4)
    assert store.newest() == state_of(4, LOSSES[4])
    run(store)
    assert store.steps() == sorted({store.best(), 6})
    assert store.is_intact(6)
