import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from distilray.config.distillation import LossConfig
from distilray.distillation import vocabulary_loss as vocabulary
from distilray.distillation.objective import MASKED_LM_ONLY, DistillationLoss, LossDivisors, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.batches import collate
from tests.tiny.models import distant_student
from tests.tiny.shards import open_shards, planned, step_counts

HEADS = 2
CONFIGS = [
    LossConfig(),
    LossConfig(ce_positions="masked"),
    LossConfig(alpha_ce=0.0),
    LossConfig(alpha_mlm=0.0, alpha_cos=0.0),
    LossConfig(alpha_ce=1.0, alpha_mlm=3.0, alpha_cos=0.5, temperature=3.0),
    LossConfig(alpha_mse=0.1),
    LossConfig(alpha_ce=0.0, alpha_mse=0.1, ce_positions="masked"),
]
NOTHING_ELSE = {"alpha_ce": 0.0, "alpha_mlm": 0.0, "alpha_cos": 0.0}
LAYER_CONFIGS = [
    LossConfig(**NOTHING_ELSE, alpha_hidden=2.0),
    LossConfig(**NOTHING_ELSE, alpha_attention=0.5),
    LossConfig(**NOTHING_ELSE, alpha_values=3.0),
    LossConfig(alpha_hidden=2.0, alpha_attention=0.5, alpha_values=3.0, alpha_mse=0.1),
    LossConfig(alpha_hidden=2.0, alpha_attention=0.5, alpha_values=3.0, layer_map=[(-1, -1), (0, 2), (1, 0), (1, 3)]),
    LossConfig(alpha_hidden=1.0, layer_map=[(-1, 1)], ce_positions="masked"),
]


def changes(losses):
    return losses.model_dump_json(exclude_defaults=True)


every_config = pytest.mark.parametrize("losses", [*CONFIGS, *LAYER_CONFIGS], ids=changes)


@pytest.fixture(scope="module")
def shards(shards_dir):
    return open_shards(shards_dir)


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir).requires_grad_(False)


@pytest.fixture
def student(teacher):
    return distant_student(teacher)  # in eval mode: no dropout


@pytest.fixture
def bert(teacher_dir):
    """Second model with the architecture of the teacher, used as student or as another teacher."""
    return load_masked_lm(teacher_dir)


def batch_of(shards, rows):
    return TensorBatch.of(collate(shards, planned(rows), pad_id=0))


def counts_of(shards, rows):
    return replace(step_counts(shards, rows), pairs=int((shards.lengths(rows).astype(np.int64) ** 2).sum()))


def run(student, teacher, losses, batches, counts):
    """Return the sums of loss and terms over micro-batches, and the gradients of the student."""
    step = DistillationLoss(student, teacher, losses)
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
    """Compute the loss of one batch from the full outputs of transformers, with means instead of sums."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "output_hidden_states": True}
    ours = student(**inputs)
    with torch.no_grad():
        theirs = teacher(**inputs, token_type_ids=batch.token_type_ids)
    real = batch.attention_mask.flatten().nonzero().flatten()
    own, other = (found.logits.flatten(0, 1) for found in (ours, theirs))
    where = batch.mask_index if losses.ce_positions == "masked" else real
    t = losses.temperature
    p, q = (other[where] / t).softmax(1), (own[where] / t).softmax(1)
    h, g = (found.hidden_states[-1].flatten(0, 1)[real] for found in (ours, theirs))
    terms = {
        "ce": t**2 * (p * (p.log() - q.log())).sum(1).mean(),
        "mlm": -own.log_softmax(1)[batch.mask_index, batch.mask_labels].mean(),
        "cos": (1 - (h * g).sum(1) / (h.norm(dim=1) * g.norm(dim=1))).mean(),
        "mse": ((own - other)[where] ** 2).sum(1).mean(),
        **plain_layer_terms(student, teacher, ours, theirs, batch, losses),
    }
    loss = sum(getattr(losses, f"alpha_{name}") * term for name, term in terms.items())
    return loss, {name: term.item() for name, term in terms.items()}


def plain_layer_terms(student, teacher, ours, theirs, batch, losses):
    """Compute each example without padding: means over tokens or pairs, then over the pairs of layers."""
    lengths = batch.attention_mask.sum(1).tolist()
    found = {"hidden": [], "attention": [], "values": []}
    for student_layer, teacher_layer in losses.layer_map or [(0, 1), (1, 3)]:
        sums = dict.fromkeys(found, 0.0)
        for example, length in enumerate(lengths):
            h, g = (
                output.hidden_states[layer + 1][example, :length]
                for output, layer in ((ours, student_layer), (theirs, teacher_layer))
            )
            sums["hidden"] += ((h - g) ** 2).sum() / h.shape[1]
            if -1 not in (student_layer, teacher_layer):
                before, behind = (
                    output.hidden_states[layer][example, :length]
                    for output, layer in ((ours, student_layer), (theirs, teacher_layer))
                )
                one = student_projections(student, student_layer, before)
                two = teacher_projections(teacher, teacher_layer, behind)
                sums["attention"] += ((relations(*one[:2]) - relations(*two[:2])) ** 2).sum() / HEADS
                p, q = (relations(values, values).softmax(-1) for values in (two[2], one[2]))
                sums["values"] += (p * (p.log() - q.log())).sum() / HEADS
        found["hidden"].append(sums["hidden"] / sum(lengths))
        if -1 not in (student_layer, teacher_layer):
            found["attention"].append(sums["attention"] / sum(length**2 for length in lengths))
            found["values"].append(sums["values"] / sum(lengths))
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def student_projections(student, layer, before):
    attention = student.distilbert.transformer.layer[layer].attention
    return [heads_of(module, before) for module in (attention.q_lin, attention.k_lin, attention.v_lin)]


def teacher_projections(teacher, layer, before):
    attention = teacher.bert.encoder.layer[layer].attention.self
    return [heads_of(module, before) for module in (attention.query, attention.key, attention.value)]


def heads_of(projection, before):
    """Split (length, dim) into (heads, length, head dim)."""
    return torch.stack((before @ projection.weight.T + projection.bias).chunk(HEADS, dim=1))


def relations(one, other):
    return torch.einsum("hid,hjd->hij", one, other) / math.sqrt(one.shape[-1])


@every_config
def test_loss_and_gradient_are_those_of_the_plain_formulas_on_full_logits(shards, student, teacher, losses):
    rows = np.arange(12)
    batch = batch_of(shards, rows)
    found = run(student, teacher, losses, [batch], counts_of(shards, rows))
    student.zero_grad()
    loss, terms = plain_loss(student, teacher, batch, losses)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert_same(found, (loss.item(), {name: terms[name] for name in found[1]}, gradients))


@every_config
def test_micro_batches_of_any_size_add_up_to_the_whole_batch(shards, student, teacher, losses):
    rows = np.argsort(shards.lengths(np.arange(len(shards))))[::5][:14]
    counts = counts_of(shards, rows)
    whole = run(student, teacher, losses, [batch_of(shards, rows)], counts)
    parts = [rows[:1], rows[1:9], rows[9:]]
    tokens = [int(shards.lengths(part).sum()) for part in parts]
    assert max(tokens) > 3 * min(tokens)
    assert_same(run(student, teacher, losses, [batch_of(shards, part) for part in parts], counts), whole)


@every_config
def test_more_padding_changes_nothing(shards, student, teacher, losses):
    rows = np.argsort(shards.lengths(np.arange(len(shards))))[:6]
    counts = counts_of(shards, rows)
    tight = TensorBatch.of(collate(shards, planned(rows), pad_id=0, multiple=1))
    wide = TensorBatch.of(collate(shards, planned(rows), pad_id=0, multiple=32))
    assert wide.input_ids.shape[1] > tight.input_ids.shape[1]
    assert_same(run(student, teacher, losses, [wide], counts), run(student, teacher, losses, [tight], counts))


@pytest.mark.parametrize("losses", [*CONFIGS, MASKED_LM_ONLY], ids=changes)
def test_the_vocabulary_terms_do_not_depend_on_their_chunks(monkeypatch, shards, student, teacher, losses):
    rows = np.arange(6)
    batch, counts = batch_of(shards, rows), counts_of(shards, rows)
    whole = run(student, teacher, losses, [batch], counts)
    monkeypatch.setattr(vocabulary, "_CHUNK_ROWS", {"cpu": 7})
    monkeypatch.setattr(vocabulary, "_BLOCK_ROWS", {"cpu": 3})
    assert_same(run(student, teacher, losses, [batch], counts), whole)


@every_config
def test_the_loss_is_the_sum_of_its_terms_times_their_alphas(shards, student, teacher, losses):
    rows = np.arange(8)
    loss, terms, _ = run(student, teacher, losses, [batch_of(shards, rows)], counts_of(shards, rows))
    weights = losses.alphas
    assert loss == pytest.approx(sum(weights[name] * term for name, term in terms.items()), rel=1e-6)
    assert {name for name, weight in weights.items() if weight} | {"mlm"} == set(terms)


def test_without_a_teacher_the_loss_is_masked_lm_alone(shards, student):
    rows = np.arange(8)
    loss, terms, _ = run(student, None, MASKED_LM_ONLY, [batch_of(shards, rows)], counts_of(shards, rows))
    assert set(terms) == {"mlm"}
    assert loss == pytest.approx(terms["mlm"], rel=1e-6)
    assert loss > 0


def test_a_teacher_as_its_own_student_loses_nothing_but_masked_lm(shards, teacher, bert):
    rows = np.arange(8)
    every_term = LossConfig(
        alpha_mse=1.0, alpha_hidden=1.0, alpha_attention=1.0, alpha_values=1.0, layer_map=[(-1, -1), (0, 0), (3, 3)]
    )
    _, terms, _ = run(bert, teacher, every_term, [batch_of(shards, rows)], counts_of(shards, rows))
    assert terms.pop("mlm") > 0.1
    assert len(terms) == 6
    assert max(abs(term) for term in terms.values()) < 1e-6


def test_by_default_a_layer_is_compared_with_the_last_of_those_it_stands_for(shards, student, teacher):
    rows = np.arange(8)
    given = [batch_of(shards, rows)], counts_of(shards, rows)
    default, chosen = (LossConfig(alpha_hidden=1.0, layer_map=pairs) for pairs in (None, [(0, 1), (1, 3)]))
    assert_same(run(student, teacher, default, *given), run(student, teacher, chosen, *given), 0.0)


@pytest.mark.parametrize("losses", LAYER_CONFIGS, ids=changes)
def test_recomputed_activations_give_the_same_gradients(shards, student, teacher, losses):
    rows = np.arange(8)
    given = [batch_of(shards, rows)], counts_of(shards, rows)
    expected = run(student, teacher, losses, *given)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(run(student.train(), teacher, losses, *given), expected)


def test_models_that_an_earlier_step_listened_to_have_the_same_terms(shards, student, teacher):
    rows = np.arange(8)
    given = [batch_of(shards, rows)], counts_of(shards, rows)
    first = run(student, teacher, LAYER_CONFIGS[4], *given)
    run(student, teacher, LAYER_CONFIGS[3], *given)
    assert_same(run(student, teacher, LAYER_CONFIGS[4], *given), first, 0.0)


@pytest.mark.parametrize("losses", [CONFIGS[0], *LAYER_CONFIGS], ids=changes)
def test_the_teacher_gets_no_gradient(shards, student, bert, losses):
    loss, _ = DistillationLoss(student, bert, losses)(batch_of(shards, [0, 1]), LossDivisors(40, 6, 800))
    loss.backward()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in bert.parameters())


def test_the_teacher_is_no_submodule(student, teacher):
    step = DistillationLoss(student, teacher, LossConfig(alpha_hidden=1.0))
    assert {id(parameter) for parameter in step.parameters()} == {id(parameter) for parameter in student.parameters()}
    assert teacher not in list(step.modules())
    step.train()
    assert student.training
    assert not teacher.training


def test_a_step_keeps_no_activation_once_its_loss_is_gone(shards, student, bert):
    step = DistillationLoss(student, bert, LAYER_CONFIGS[3])
    heard = []
    for module in (student.distilbert.transformer.layer[0].attention.q_lin, bert.bert.encoder.layer[1]):
        module.register_forward_hook(lambda _module, _inputs, output: heard.append(weakref.ref(output)))
    step(batch_of(shards, [0, 1]), LossDivisors(40, 6, 800))
    gc.collect()
    assert [activation() for activation in heard] == [None, None]


def test_every_parameter_of_the_student_is_trained(shards, student, teacher):
    _, _, gradients = run(student, teacher, LossConfig(), [batch_of(shards, np.arange(20))], LossDivisors(600, 80))
    # The bias of the keys shifts all attention scores of a token equally, so its gradient is always 0.
    assert [name for name, gradient in gradients.items() if not gradient.abs().max() and "k_lin.bias" not in name] == []


@pytest.mark.parametrize("losses", [CONFIGS[0], LAYER_CONFIGS[3]], ids=changes)
def test_in_bf16_the_loss_stays_fp32_and_near(shards, student, teacher, losses):
    rows = np.arange(12)
    batch, counts = batch_of(shards, rows), counts_of(shards, rows)
    exact, _ = DistillationLoss(student, teacher, losses)(batch, counts)
    loss, terms = DistillationLoss(student, teacher, losses, torch.bfloat16)(batch, counts)
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_no_masked_token_in_a_micro_batch_is_no_fault(shards, student, teacher):
    batch = batch_of(shards, [0, 1])
    nothing = torch.empty(0, dtype=torch.long)
    bare = TensorBatch(batch.input_ids, batch.attention_mask, batch.token_type_ids, nothing, nothing)
    for losses in (LossConfig(), LossConfig(ce_positions="masked")):
        loss, terms = DistillationLoss(student, teacher, losses)(bare, LossDivisors(40, 1))
        loss.backward()
        assert torch.isfinite(loss)
        assert terms["mlm"] == 0
