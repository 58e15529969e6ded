import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distilray.config.distillation import LossConfig, OptimizerConfig
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.errors import InputError
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.sample_plan import PlanState
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.training.checkpoint import (
    BrokenCheckpointError,
    CheckpointStore,
    Snapshot,
    TrainingState,
    newest_step,
)
from distilray.training.optimizer import create_optimizer
from tests.tiny.shards import open_shards, planned

CONFIG = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
STATE = TrainingState(3, PlanState(epoch=1, consumed=20), "a-config", (2, 1), {"scale": 4.0}, {"loss": 2.5})
FILES = {
    "config.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir)


@pytest.fixture(scope="module")
def batch(shards_dir):
    return TensorBatch.of(collate(open_shards(shards_dir), planned(np.arange(8)), pad_id=0))


def train(model, optimizer, teacher, batch, steps):
    step = DistillationLoss(model, teacher, LossConfig())
    for _ in range(steps):
        loss, _ = step(batch, LossDivisors(200, 30))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def new_pair(teacher, **changes):
    model = create_student(teacher, **changes)[0]
    return model, create_optimizer(model, CONFIG)


@pytest.fixture
def trained(teacher, batch):
    model, optimizer = new_pair(teacher)
    train(model, optimizer, teacher, batch, 3)
    return model, optimizer


@pytest.fixture
def notices():
    return []


@pytest.fixture
def store(tmp_path, notices):
    return CheckpointStore(str(tmp_path), keep=3, config_hash="a-config", notice=notices.append)


@pytest.fixture
def snapshot(trained, teacher_dir):
    return Snapshot.of(*trained, STATE, read_tokenizer(teacher_dir))


@pytest.fixture
def folder(store, snapshot):
    """Return the folder of a checkpoint of step 3."""
    store.save(snapshot)
    store.wait()
    return Path(store.path(3))


def save_steps(store, snapshot, *steps, loss=None):
    for step in steps:
        metrics = {} if loss is None else {"loss": loss[step]}
        store.save(replace(snapshot, state=replace(STATE, step=step, metrics=metrics)))
    store.wait()


def assert_equal_states(found, expected):
    (model, optimizer), (other_model, other_optimizer) = found, expected
    state = other_model.state_dict()
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    others = dict(other_model.named_parameters())
    for name, parameter in model.named_parameters():
        have, want = optimizer.state[parameter], other_optimizer.state[others[name]]
        assert have.keys() == want.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key in want:
            assert torch.equal(have[key], want[key]), (name, key)
            assert have[key].dtype == want[key].dtype


def test_model_and_optimizer_are_restored_bit_for_bit(store, folder, trained, teacher):
    fresh = new_pair(teacher, layers=[1, 2], fold_segment_a=False)
    assert store.newest() == STATE
    store.restore(3, *fresh)
    assert_equal_states(fresh, trained)


def test_the_newest_step_of_a_folder_is_that_of_the_last_complete_checkpoint(tmp_path, store, snapshot):
    assert newest_step(str(tmp_path / "absent")) == 0
    save_steps(store, snapshot, 3, 12)
    Path(store.path(12), "state.json").unlink()  # as after a kill while it was written
    assert newest_step(str(tmp_path)) == 3


def test_every_worker_reads_the_state_that_was_saved(store, folder):
    assert store.state(3) == STATE


def test_resumed_training_equals_uninterrupted_training(store, folder, trained, teacher, batch):
    fresh = new_pair(teacher)
    store.restore(3, *fresh)
    for pair in (trained, fresh):
        train(*pair, teacher, batch, 2)
    assert_equal_states(fresh, trained)


def test_a_snapshot_is_unaffected_by_further_training(store, trained, teacher_dir, teacher, batch):
    before = {name: tensor.clone() for name, tensor in trained[0].named_parameters()}
    snapshot = Snapshot.of(*trained, STATE, read_tokenizer(teacher_dir))
    train(*trained, teacher, batch, 1)
    store.save(snapshot)
    store.wait()
    fresh = new_pair(teacher)
    store.restore(3, *fresh)
    for name, parameter in fresh[0].named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_the_decoder_is_still_tied_after_a_restore(store, folder, teacher):
    model, optimizer = new_pair(teacher)
    store.restore(3, model, optimizer)
    assert model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight


def test_restored_state_is_on_the_device_of_the_optimizer(store, folder, trained, teacher):
    fresh = new_pair(teacher)
    store.restore(3, *fresh)
    devices = [{key: value.device for key, value in s.items()} for s in fresh[1].state.values()]
    assert devices == [{key: value.device for key, value in s.items()} for s in trained[1].state.values()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_resumes_from_a_checkpoint_on_a_gpu(store, folder, teacher_dir, batch):
    teacher = load_masked_lm(teacher_dir).cuda()
    model = create_student(teacher)[0].cuda()
    optimizer = create_optimizer(model, CONFIG)
    store.restore(3, model, optimizer)
    moved = TensorBatch(*(tensor.cuda() for tensor in vars(batch).values()))
    train(model, optimizer, teacher, moved, 2)
    steps = {float(state["step"]) for state in optimizer.state.values()}
    assert steps == {5.0}


def test_a_checkpoint_is_a_model_folder(folder, trained):
    state = load_masked_lm(str(folder)).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in trained[0].state_dict().items())


def test_a_checkpoint_contains_its_files_and_no_pickle(folder):
    assert {file.name for file in folder.iterdir()} == FILES


def test_the_same_state_gives_the_same_bytes(store, folder, snapshot, tmp_path, notices):
    other = CheckpointStore(str(tmp_path / "other"), keep=3, config_hash="a-config", notice=notices.append)
    other.save(snapshot)
    other.wait()
    for name in FILES:
        assert (folder / name).read_bytes() == Path(other.path(3, name)).read_bytes(), name


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_after_a_flipped_byte_the_previous_checkpoint_is_used_with_a_notice(store, snapshot, notices, name, place):
    save_steps(store, snapshot, 3, 5)
    file = Path(store.path(5, name))
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 255
    file.write_bytes(data)
    assert store.newest().step == 3
    assert len(notices) == 1
    assert notices[0].startswith(f"CHECKPOINT {store.path(5)} IS BROKEN")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("left", [None, 0, 999])
def test_after_a_truncated_or_missing_file_the_previous_checkpoint_is_used(store, snapshot, notices, name, left):
    save_steps(store, snapshot, 3, 5)
    file = Path(store.path(5, name))
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:left])
    assert store.newest().step == 3
    assert name in notices[0]


def test_an_incomplete_checkpoint_is_ignored(store, snapshot, notices):
    save_steps(store, snapshot, 3, 5)
    Path(store.path(5, "state.json")).unlink()
    assert store.steps() == [3]
    assert store.newest().step == 3
    assert notices == []


def test_without_a_checkpoint_there_is_no_newest(store):
    assert store.newest() is None


def test_the_newest_are_kept_and_the_one_with_the_lowest_loss(store, snapshot):
    save_steps(store, snapshot, *range(1, 8), loss={1: 9.0, 2: 1.0, 3: 5.0, 4: 3.0, 5: 3.0, 6: 3.0, 7: 4.0})
    assert store.steps() == [2, 5, 6, 7]
    assert store.best() == 2


def test_without_scores_only_the_newest_are_kept(store, snapshot):
    save_steps(store, snapshot, *range(1, 6))
    assert store.steps() == [3, 4, 5]
    assert store.best() is None


def test_incomplete_checkpoints_are_removed_by_the_next_one(store, snapshot):
    save_steps(store, snapshot, 3)
    left = Path(shutil.copytree(store.path(3), store.path(4)))
    (left / "state.json").unlink()
    save_steps(store, snapshot, 5)
    assert not left.exists()
    assert store.steps() == [3, 5]


def test_a_checkpoint_of_another_config_is_refused(store, snapshot):
    store.save(replace(snapshot, state=replace(STATE, config_hash="another")))
    store.wait()
    with pytest.raises(BrokenCheckpointError, match="another config"):
        store.newest()


def test_a_checkpoint_has_the_number_of_completed_steps(folder):
    assert json.loads((folder / "state.json").read_text())["step"] == 3


@pytest.mark.parametrize("layers", [[0, 1, 2], [0]])
def test_the_checkpoint_of_a_model_of_another_size_is_refused(store, folder, teacher, layers):
    with pytest.raises(BrokenCheckpointError, match=r"layer\.[12]\..* is in the model or in the file"):
        store.restore(3, *new_pair(teacher, layers=layers))


def test_a_checkpoint_that_cannot_be_written_is_reported_by_the_next_call(store, snapshot, tmp_path):
    (tmp_path / "step-0000003").write_text("in the way")
    store.save(snapshot)
    with pytest.raises(InputError, match="step-0000003"):
        store.save(snapshot)


def test_checkpoints_in_an_object_store_are_restored(bucket, snapshot, trained, teacher, notices):
    store = CheckpointStore(f"{bucket}/run/checkpoints", keep=2, config_hash="a-config", notice=notices.append)
    save_steps(store, snapshot, 1, 2, 3)
    assert store.steps() == [2, 3]
    assert store.newest().step == 3
    fresh = new_pair(teacher, layers=[1, 2])
    store.restore(3, *fresh)
    assert_equal_states(fresh, trained)


def test_the_best_checkpoint_is_that_of_the_lowest_cost(tmp_path, snapshot, notices):
    store = CheckpointStore(
        str(tmp_path), keep=1, config_hash="a-config", notice=notices.append, cost=lambda metrics: -metrics["loss"]
    )
    save_steps(store, snapshot, *range(1, 5), loss={1: 9.0, 2: 9.5, 3: 9.5, 4: 3.0})
    assert store.best() == 2
    assert store.steps() == [2, 4]


def test_damaged_checkpoints_are_detected(store, snapshot):
    save_steps(store, snapshot, 3, 5)
    Path(store.path(5, "model.safetensors")).write_bytes(b"torn")
    assert [store.is_intact(step) for step in (3, 4, 5)] == [True, False, False]
