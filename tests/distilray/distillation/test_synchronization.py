"""Operations for which the host would have to wait for a GPU, counted on a CPU."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distilray.config.distillation import LossConfig
from distilray.distillation import objective
from distilray.distillation.heldout import HeldoutScorer
from distilray.distillation.objective import DistillationLoss, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.pretraining_data.batches import collate
from tests.tiny.shards import open_shards, planned, step_counts
from tests.tiny.teacher_cache import write_cache

ROWS = np.arange(8)
LAYER_LOSSES = LossConfig(alpha_hidden=2.0, alpha_attention=0.5, alpha_values=3.0)


class Waits(TorchDispatchMode):
    """Records the operations whose result, or its size, the host must read."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "item", "repeat_interleave")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").partition(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        is_boolean = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if name in self.NAMES or is_boolean:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _no_vocabulary_loss(monkeypatch):
    """Replace the vocabulary loss, whose synchronizations have their own tests."""

    def replacement(hidden, weight, bias, labels, **_):
        return hidden.float().sum(), {name: hidden.detach().float().sum() for name in ("ce", "mlm", "mse")}

    monkeypatch.setattr(objective, "vocabulary_loss", replacement)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("losses", [LossConfig(), LossConfig(ce_positions="masked"), LAYER_LOSSES], ids=str)
@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "without padding"])
def test_a_micro_step_never_waits_for_the_device(shards, student, teacher, losses, attention, is_padded):
    rows = ROWS if is_padded else ROWS[:1]
    batch = TensorBatch.of(collate(shards, planned(rows), pad_id=0, multiple=1))
    assert batch.has_padding == is_padded
    for model in (student, teacher):
        model.set_attn_implementation(attention)
    module = DistillationLoss(student.train(), teacher, losses)
    with Waits() as waits:
        loss, _ = module(batch, step_counts(shards, rows))
        loss.backward()
    assert waits.names == []


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_a_micro_step_with_cached_targets_never_waits_for_the_device(
    tmp_path, shards_dir, teacher_dir, shards, student, positions
):
    folder = write_cache(tmp_path / "cache", shards_dir, teacher_dir, positions=positions)
    losses = LossConfig(ce_positions=positions)
    targets = TeacherCache(folder, shards, losses).of(ROWS)
    batch = TensorBatch.of(collate(shards, planned(ROWS), pad_id=0), targets)
    module = DistillationLoss(student, None, losses, cached=True)
    with Waits() as waits:
        module(batch, step_counts(shards, ROWS))[0].backward()
        module.score(batch, step_counts(shards, ROWS))
    assert waits.names == []


def test_heldout_scores_are_read_once(shards_dir, student, teacher):
    module = DistillationLoss(student, teacher, LossConfig())
    reads = []
    scorer = HeldoutScorer(
        shards=open_shards(shards_dir, "heldout"),
        rank=0,
        num_workers=1,
        batch_size=3,
        pad_id=0,
        device=torch.device("cpu"),
        reduce=lambda values: reads.append(values) or values,
        on_batch=lambda: None,
    )
    with Waits() as waits:
        scorer.score(module)
    assert waits.names == []
    assert len(reads) == 1


def test_labels_and_positions_of_real_tokens_follow_from_the_batch(shards):
    plain = collate(shards, planned(ROWS), pad_id=0)
    batch = TensorBatch.of(plain)
    expected = torch.full((plain.input_ids.size,), -100)
    expected[batch.mask_index] = batch.mask_labels
    real = batch.attention_mask.flatten().bool()
    assert torch.equal(batch.token_labels, expected[real])
    assert torch.equal(batch.token_index, real.nonzero().squeeze(1))
