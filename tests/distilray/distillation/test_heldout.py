import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distilray.config.distillation import LossConfig
from distilray.distillation.heldout import HeldoutScorer
from distilray.distillation.objective import MASKED_LM_ONLY, DistillationLoss
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.batches import collate
from tests.tiny.models import distant_student
from tests.tiny.shards import open_shards, planned

LOSSES = LossConfig(alpha_ce=3.0, alpha_mlm=2.0, alpha_cos=0.5, temperature=2.0)


@pytest.fixture(scope="module")
def shards(shards_dir):
    return open_shards(shards_dir, "heldout")


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def student(teacher):
    """Student with dropout."""
    model = distant_student(teacher)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    return model.train()


@pytest.fixture
def step(student, teacher):
    return DistillationLoss(student, teacher, LOSSES)


@pytest.fixture
def score(shards):
    """Return the scores of some workers, summed over them."""

    def run(step, num_workers=1, batch_size=7, on_batch=lambda: None):
        found = [
            HeldoutScorer(
                shards=shards,
                rank=rank,
                num_workers=num_workers,
                batch_size=batch_size,
                pad_id=0,
                device=torch.device("cpu"),
                reduce=list,
                on_batch=on_batch,
            ).score(step)
            for rank in range(num_workers)
        ]
        assert all(one.keys() == found[0].keys() for one in found)
        return {name: sum(one[name] for one in found) for name in found[0]}

    return run


@torch.no_grad()
def plain_scores(shards, student, teacher):
    """Compute the same scores from the logits of one example at a time."""
    student.eval()
    parts = {"ce": [], "mlm": [], "cos": [], "hit@1": [], "agreement": []}
    for row in range(len(shards)):
        batch = collate(shards, planned([row]), pad_id=0, multiple=1)
        inputs = {name: torch.from_numpy(getattr(batch, name)) for name in ("input_ids", "attention_mask")}
        types = torch.from_numpy(batch.token_type_ids)
        own = student(**inputs, output_hidden_states=True)
        other = teacher(**inputs, token_type_ids=types, output_hidden_states=True)
        logits, targets, temperature = own.logits[0], other.logits[0], LOSSES.temperature
        pairs = F.log_softmax(logits / temperature, -1), F.softmax(targets / temperature, -1)
        parts["ce"].append(temperature**2 * F.kl_div(*pairs, reduction="none").sum(-1))
        parts["cos"].append(1 - F.cosine_similarity(own.hidden_states[-1][0], other.hidden_states[-1][0], dim=-1))
        masks, labels = torch.from_numpy(batch.mask_index), torch.from_numpy(batch.mask_labels)
        parts["mlm"].append(F.cross_entropy(logits[masks], labels, reduction="none"))
        parts["hit@1"].append((logits[masks].argmax(-1) == labels).float())
        parts["agreement"].append((logits[masks].argmax(-1) == targets[masks].argmax(-1)).float())
    student.train()
    means = {name: float(torch.cat(values).mean()) for name, values in parts.items()}
    return means | {"loss": sum(LOSSES.alphas[name] * means[name] for name in ("ce", "mlm", "cos"))}


def test_the_scores_are_those_of_a_plain_computation(score, step, shards, student, teacher):
    assert score(step) == pytest.approx(plain_scores(shards, student, teacher), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])  # with the last, two of three workers have no batch
def test_the_number_of_workers_and_their_batches_do_not_change_the_scores(score, step, batch_size):
    assert score(step, 3, batch_size) == pytest.approx(score(step), rel=1e-5)


def test_without_a_teacher_there_are_the_scores_of_the_masked_words_alone(score, student):
    found = score(DistillationLoss(student, None, MASKED_LM_ONLY))
    assert sorted(found) == ["hit@1", "loss", "mlm"]
    assert found["loss"] == pytest.approx(found["mlm"])


def test_scores_know_no_dropout(score, step):
    assert score(step) == score(step)


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_the_mode_of_the_model_as_it_was(score, step, student, training):
    student.train(training)
    score(step)
    assert student.training is training
    student.train()


def test_every_batch_is_a_sign_of_life(score, step, shards):
    moves = []
    score(step, batch_size=7, on_batch=lambda: moves.append(1))
    assert len(moves) == int(np.ceil(len(shards) / 7))
