import numpy as np
import pytest
import torch

from distilray.config.distillation import LossConfig
from distilray.distillation import step as step_module
from distilray.distillation.step import MASKED_LM_ONLY, DistillationStep, StepCounts, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.pretraining_data.batches import collate
from tests.distilray.tiny_line import open_shards, planned, step_counts

CPU = torch.device("cpu")
CONFIGS = [
    LossConfig(),
    LossConfig(ce_positions="masked"),
    LossConfig(alpha_ce=0.0),
    LossConfig(alpha_mlm=0.0, alpha_cos=0.0),
    LossConfig(alpha_ce=1.0, alpha_mlm=3.0, alpha_cos=0.5, temperature=3.0),
]


@pytest.fixture(scope="module")
def shards(shards_dir):
    return open_shards(shards_dir)


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir).requires_grad_(False)


@pytest.fixture
def student(teacher):
    model = create_student(teacher)[0]
    # Moved away from the teacher, so that no loss and no gradient is near 0; in eval mode: no dropout.
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def batch_of(shards, rows):
    return TensorBatch.of(collate(shards, planned(rows), pad_id=0))


def counts_of(shards, rows):
    return step_counts(shards, rows)


def run(student, teacher, losses, batches, counts):
    """Sum of loss and terms over micro-batches, and the gradients of the student."""
    step = DistillationStep(student, teacher, losses, None)
    student.zero_grad()
    total, sums = 0.0, {}
    for batch in batches:
        loss, terms = step(batch, counts)
        loss.backward()
        total += loss.item()
        sums = {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
    return total, sums, {name: parameter.grad.clone() for name, parameter in student.named_parameters()}


def assert_same(found, expected, tolerance=1e-5):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1] == pytest.approx(expected[1], rel=tolerance)
    scale = max(gradient.norm() for gradient in expected[2].values())
    for name, gradient in expected[2].items():
        assert (found[2][name] - gradient).norm() <= tolerance * scale, name


def plain_loss(student, teacher, batch, losses):
    """The loss of one batch from the full logits of transformers, with means instead of sums."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "output_hidden_states": True}
    ours = student(**inputs)
    with torch.no_grad():
        theirs = teacher(**inputs, token_type_ids=batch.token_type_ids)
    real = batch.attention_mask.flatten().nonzero().flatten()
    vocabulary = ours.logits.shape[-1]
    own, other = (found.logits.reshape(-1, vocabulary) for found in (ours, theirs))
    where = batch.mask_index if losses.ce_positions == "masked" else real
    t = losses.temperature
    p, q = (other[where] / t).softmax(1), (own[where] / t).softmax(1)
    h, g = (found.hidden_states[-1].flatten(0, 1)[real] for found in (ours, theirs))
    terms = {
        "ce": t**2 * (p * (p.log() - q.log())).sum(1).mean(),
        "mlm": -own.log_softmax(1)[batch.mask_index, batch.mask_labels].mean(),
        "cos": (1 - (h * g).sum(1) / (h.norm(dim=1) * g.norm(dim=1))).mean(),
    }
    loss = losses.alpha_ce * terms["ce"] + losses.alpha_mlm * terms["mlm"] + losses.alpha_cos * terms["cos"]
    return loss, {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize("losses", CONFIGS, ids=str)
def test_loss_and_gradient_are_those_of_the_plain_formulas_on_full_logits(shards, student, teacher, losses):
    rows = np.arange(12)
    batch = batch_of(shards, rows)
    found = run(student, teacher, losses, [batch], counts_of(shards, rows))
    student.zero_grad()
    loss, terms = plain_loss(student, teacher, batch, losses)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert_same(found, (loss.item(), {name: terms[name] for name in found[1]}, gradients))


@pytest.mark.parametrize("losses", CONFIGS, ids=str)
def test_micro_batches_of_any_size_add_up_to_the_whole_batch(shards, student, teacher, losses):
    rows = np.argsort(shards.lengths(np.arange(len(shards))))[::5][:14]
    counts = counts_of(shards, rows)
    whole = run(student, teacher, losses, [batch_of(shards, rows)], counts)
    parts = [rows[:1], rows[1:9], rows[9:]]
    tokens = [int(shards.lengths(part).sum()) for part in parts]
    assert max(tokens) > 3 * min(tokens)
    assert_same(run(student, teacher, losses, [batch_of(shards, part) for part in parts], counts), whole)


@pytest.mark.parametrize("losses", CONFIGS, ids=str)
def test_more_padding_changes_nothing(shards, student, teacher, losses):
    rows = np.argsort(shards.lengths(np.arange(len(shards))))[:6]
    counts = counts_of(shards, rows)
    tight = TensorBatch.of(collate(shards, planned(rows), pad_id=0, multiple=1))
    wide = TensorBatch.of(collate(shards, planned(rows), pad_id=0, multiple=32))
    assert wide.input_ids.shape[1] > tight.input_ids.shape[1]
    assert_same(run(student, teacher, losses, [wide], counts), run(student, teacher, losses, [tight], counts))


@pytest.mark.parametrize("losses", [*CONFIGS, MASKED_LM_ONLY], ids=str)
def test_the_vocabulary_terms_do_not_depend_on_their_chunks(monkeypatch, shards, student, teacher, losses):
    rows = np.arange(6)
    batch, counts = batch_of(shards, rows), counts_of(shards, rows)
    whole = run(student, teacher, losses, [batch], counts)
    monkeypatch.setattr(step_module, "_CHUNK_ROWS", 7)
    assert_same(run(student, teacher, losses, [batch], counts), whole)


@pytest.mark.parametrize("losses", CONFIGS, ids=str)
def test_the_loss_is_the_sum_of_its_terms_times_their_alphas(shards, student, teacher, losses):
    rows = np.arange(8)
    loss, terms, _ = run(student, teacher, losses, [batch_of(shards, rows)], counts_of(shards, rows))
    weights = {"ce": losses.alpha_ce, "mlm": losses.alpha_mlm, "cos": losses.alpha_cos}
    assert loss == pytest.approx(sum(weights[name] * term for name, term in terms.items()), rel=1e-6)
    assert {name for name, weight in weights.items() if weight} <= set(terms)


def test_without_a_teacher_the_loss_is_masked_lm_alone(shards, student):
    rows = np.arange(8)
    loss, terms, _ = run(student, None, MASKED_LM_ONLY, [batch_of(shards, rows)], counts_of(shards, rows))
    assert set(terms) == {"mlm"}
    assert loss == terms["mlm"] > 0


def test_a_teacher_as_its_own_student_loses_nothing_but_masked_lm(shards, teacher_dir):
    model, same = load_masked_lm(teacher_dir), load_masked_lm(teacher_dir)
    rows = np.arange(8)
    _, terms, _ = run(model, same, LossConfig(), [batch_of(shards, rows)], counts_of(shards, rows))
    assert abs(terms["ce"]) < 1e-6
    assert abs(terms["cos"]) < 1e-6
    assert terms["mlm"] > 0.1


def test_the_teacher_gets_no_gradient_and_is_no_submodule(shards, student, teacher_dir):
    teacher = load_masked_lm(teacher_dir)  # even one whose parameters ask for a gradient
    step = DistillationStep(student, teacher, LossConfig(), None)
    loss, _ = step(batch_of(shards, [0, 1]), StepCounts(40, 6))
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {id(parameter) for parameter in step.parameters()} == {id(parameter) for parameter in student.parameters()}
    assert teacher not in list(step.modules())
    step.train()
    assert student.training
    assert not teacher.training


def test_every_parameter_of_the_student_is_trained(shards, student, teacher):
    _, _, gradients = run(student, teacher, LossConfig(), [batch_of(shards, np.arange(20))], StepCounts(600, 80))
    # The bias of the keys shifts all attention scores of a token alike: its gradient is 0 by nature.
    assert [name for name, gradient in gradients.items() if not gradient.abs().max() and "k_lin.bias" not in name] == []


def test_in_bf16_the_loss_stays_fp32_and_near(shards, student, teacher):
    rows = np.arange(12)
    batch, counts = batch_of(shards, rows), counts_of(shards, rows)
    exact, _ = DistillationStep(student, teacher, LossConfig(), None)(batch, counts)
    loss, terms = DistillationStep(student, teacher, LossConfig(), torch.bfloat16)(batch, counts)
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_no_masked_token_in_a_micro_batch_is_no_fault(shards, student, teacher):
    batch = batch_of(shards, [0, 1])
    nothing = torch.empty(0, dtype=torch.long)
    bare = TensorBatch(batch.input_ids, batch.attention_mask, batch.token_type_ids, nothing, nothing)
    for losses in (LossConfig(), LossConfig(ce_positions="masked")):
        loss, terms = DistillationStep(student, teacher, losses, None)(bare, StepCounts(40, 1))
        loss.backward()
        assert torch.isfinite(loss)
        assert terms["mlm"] == 0
