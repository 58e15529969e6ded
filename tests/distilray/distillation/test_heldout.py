import math

import pytest
import torch
from torch.nn import functional as F

from distilray.config.distillation import LossConfig
from distilray.distillation.heldout import HeldoutScorer
from distilray.distillation.objective import MASKED_LM_ONLY, DistillationLoss
from distilray.pretraining_data.batches import collate
from tests.tiny.shards import open_shards, planned

LOSSES = LossConfig(alpha_ce=3.0, alpha_mlm=2.0, alpha_cos=0.5, temperature=2.0)


@pytest.fixture(scope="module")
def shards(shards_dir):
    return open_shards(shards_dir, "heldout")


@pytest.fixture
def student(student):
    """Student with dropout, in training."""
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    return student.train()


@pytest.fixture
def module(student, teacher):
    return DistillationLoss(student, teacher, LOSSES)


@pytest.fixture
def score(shards):
    """Return the scores of some workers, summed over them."""

    def run(module, num_workers=1, batch_size=7, **settings):
        settings = {"on_batch": lambda: None, "device": torch.device("cpu"), "reduce": list, "pad_id": 0, **settings}
        scores = [
            HeldoutScorer(shards=shards, rank=rank, num_workers=num_workers, batch_size=batch_size, **settings).score(
                module
            )
            for rank in range(num_workers)
        ]
        assert all(each.keys() == scores[0].keys() for each in scores)
        return {name: sum(each[name] for each in scores) for name in scores[0]}

    return run


@torch.no_grad()
def plain_scores(shards, student, teacher, rows):
    """Compute the same scores from the logits of one example at a time."""
    student.eval()
    values = {"ce": [], "mlm": [], "cos": [], "hit@1": [], "agreement": []}
    for row in rows:
        batch = collate(shards, planned([row]), pad_id=0, multiple=1)
        inputs = {name: torch.from_numpy(getattr(batch, name)) for name in ("input_ids", "attention_mask")}
        own = student(**inputs, output_hidden_states=True)
        other = teacher(**inputs, token_type_ids=torch.from_numpy(batch.token_type_ids), output_hidden_states=True)
        logits, targets, t = own.logits[0], other.logits[0], LOSSES.temperature
        log_q, p = F.log_softmax(logits / t, -1), F.softmax(targets / t, -1)
        values["ce"].append(t**2 * F.kl_div(log_q, p, reduction="none").sum(-1))
        values["cos"].append(1 - F.cosine_similarity(own.hidden_states[-1][0], other.hidden_states[-1][0], dim=-1))
        masks, labels = torch.from_numpy(batch.mask_index), torch.from_numpy(batch.mask_labels)
        values["mlm"].append(F.cross_entropy(logits[masks], labels, reduction="none"))
        values["hit@1"].append((logits[masks].argmax(-1) == labels).float())
        values["agreement"].append((logits[masks].argmax(-1) == targets[masks].argmax(-1)).float())
    student.train()
    means = {name: float(torch.cat(each).mean()) for name, each in values.items()}
    return means | {"loss": sum(LOSSES.alphas[name] * means[name] for name in ("ce", "mlm", "cos"))}


# With a batch size of 1000, two of three workers have no batch.
@pytest.mark.parametrize(("num_workers", "batch_size"), [(1, 7), (3, 1), (3, 4), (3, 1000)])
@pytest.mark.parametrize("limit", [None, 5])
def test_scores_match_a_plain_computation_for_any_workers_and_batches(
    score, module, shards, student, teacher, num_workers, batch_size, limit
):
    expected = plain_scores(shards, student, teacher, range(limit or len(shards)))
    assert score(module, num_workers, batch_size, limit=limit) == pytest.approx(expected, rel=1e-4)


def test_without_a_teacher_there_are_only_scores_of_masked_lm(score, student):
    scores = score(DistillationLoss(student, None, MASKED_LM_ONLY))
    assert sorted(scores) == ["hit@1", "loss", "mlm"]
    assert scores["loss"] == pytest.approx(scores["mlm"])


@pytest.mark.parametrize("training", [True, False])
def test_scoring_uses_no_dropout_and_restores_the_mode_of_the_model(score, module, student, training):
    student.train(training)
    assert score(module) == score(module)
    assert student.training is training


def test_every_batch_is_reported(score, module, shards):
    calls = []
    score(module, batch_size=7, on_batch=lambda: calls.append(1))
    assert len(calls) == math.ceil(len(shards) / 7)
