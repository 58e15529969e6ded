import json

import numpy as np
import pytest
import torch
from ray.train import Checkpoint

from distilray.config.distillation import LossConfig, OptimizerConfig
from distilray.distillation.checkpoint import BrokenCheckpointError, restore_checkpoint, saved_checkpoint
from distilray.distillation.optim import create_optimizer
from distilray.distillation.step import DistillationStep, StepCounts, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.sample_plan import PlanState
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.distilray.tiny_line import open_shards, planned

CONFIG = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
STATE = PlanState(epoch=1, consumed=20)


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir)


@pytest.fixture(scope="module")
def batch(shards_dir):
    return TensorBatch.of(collate(open_shards(shards_dir), planned(np.arange(8)), pad_id=0))


def train(model, optimizer, teacher, batch, steps):
    step = DistillationStep(model, teacher, LossConfig(), None)
    for _ in range(steps):
        loss, _ = step(batch, StepCounts(200, 30))
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
def folder(trained, teacher_dir, tmp_path):
    """The folder of a checkpoint, kept beyond its context."""
    with saved_checkpoint(*trained, step=3, state=STATE, tokenizer_json=read_tokenizer(teacher_dir)) as checkpoint:
        checkpoint.to_directory(str(tmp_path / "kept"))
    return tmp_path / "kept"


def restore(folder, model, optimizer):
    return restore_checkpoint(Checkpoint.from_directory(str(folder)), model, optimizer)


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


def test_model_and_optimiser_come_back_bit_for_bit(folder, trained, teacher):
    fresh = new_pair(teacher, layers=[1, 2], fold_segment_a=False)
    assert restore(folder, *fresh) == (3, STATE)
    assert_equal_states(fresh, trained)


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(folder, trained, teacher, batch):
    fresh = new_pair(teacher)
    restore(folder, *fresh)
    for pair in (trained, fresh):
        train(*pair, teacher, batch, 2)
    assert_equal_states(fresh, trained)


def test_the_decoder_is_still_tied_after_a_restore(folder, teacher):
    model, optimizer = new_pair(teacher)
    restore(folder, model, optimizer)
    assert model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight


def test_the_state_of_each_parameter_lies_where_its_optimiser_keeps_it(folder, trained, teacher):
    fresh = new_pair(teacher)
    restore(folder, *fresh)
    devices = [{key: value.device for key, value in s.items()} for s in fresh[1].state.values()]
    assert devices == [{key: value.device for key, value in s.items()} for s in trained[1].state.values()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_goes_on_from_a_checkpoint_on_a_gpu(folder, teacher_dir, batch):
    teacher = load_masked_lm(teacher_dir).cuda()
    model = create_student(teacher)[0].cuda()
    optimizer = create_optimizer(model, CONFIG)
    restore(folder, model, optimizer)
    moved = TensorBatch(*(tensor.cuda() for tensor in vars(batch).values()))
    train(model, optimizer, teacher, moved, 2)
    steps = {float(state["step"]) for state in optimizer.state.values()}
    assert steps == {5.0}


def test_a_checkpoint_is_a_model_folder(folder, trained):
    state = load_masked_lm(str(folder)).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in trained[0].state_dict().items())


def test_a_checkpoint_holds_no_pickle(folder):
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_flipped_byte_is_refused_by_name_and_changes_nothing(folder, teacher, name, place):
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (folder / name).write_bytes(data)
    model, optimizer = new_pair(teacher)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(BrokenCheckpointError, match=name):
        restore(folder, model, optimizer)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not optimizer.state


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_file_is_refused_by_name(folder, teacher, name):
    (folder / name).unlink()
    with pytest.raises(BrokenCheckpointError, match=name):
        restore(folder, *new_pair(teacher))


def test_a_checkpoint_tells_how_many_steps_are_done(folder):
    assert json.loads((folder / "state.json").read_text())["step"] == 3


def test_the_checkpoint_of_a_smaller_model_is_refused(folder, teacher):
    with pytest.raises(BrokenCheckpointError, match=r"no distilbert\.transformer\.layer\.2"):
        restore(folder, *new_pair(teacher, layers=[0, 1, 2]))
