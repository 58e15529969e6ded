import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from distilray.config.distillation import LossConfig
from distilray.distillation.losses import attention_mse, hidden_mse, value_relation_kl
from distilray.distillation.objective import MASKED_LM_ONLY, DistillationLoss, LossDivisors, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.batches import collate
from tests.tiny.shards import planned, step_counts

HEADS = 2
ROWS = np.arange(8)
VOCABULARY_CONFIGS = [
    LossConfig(),
    LossConfig(ce_positions="masked"),
    LossConfig(alpha_ce=0.0),
    LossConfig(alpha_mlm=0.0, alpha_cos=0.0),
    LossConfig(alpha_ce=1.0, alpha_mlm=3.0, alpha_cos=0.5, temperature=3.0),
    LossConfig(alpha_mse=0.1),
    LossConfig(alpha_ce=0.0, alpha_mse=0.1, ce_positions="masked"),
]
ONE_LAYER_LOSS = {"alpha_ce": 0.0, "alpha_mlm": 0.0, "alpha_cos": 0.0}
LAYER_LOSSES = {"alpha_hidden": 2.0, "alpha_attention": 0.5, "alpha_values": 3.0}
ALL_LOSSES = LossConfig(**LAYER_LOSSES, alpha_mse=0.1)
LAYER_MAP = LossConfig(**LAYER_LOSSES, layer_map=[(-1, -1), (0, 2), (1, 0), (1, 3)])
LAYER_CONFIGS = [
    *(LossConfig(**ONE_LAYER_LOSS, **{name: alpha}) for name, alpha in LAYER_LOSSES.items()),
    ALL_LOSSES,
    LAYER_MAP,
    LossConfig(alpha_hidden=1.0, layer_map=[(-1, 1)], ce_positions="masked"),
]


def parametrize_losses(*configs):
    return pytest.mark.parametrize("losses", configs, ids=lambda losses: losses.model_dump_json(exclude_defaults=True))


@pytest.fixture
def bert(teacher_dir):
    """Second model with the architecture of the teacher, used as student or as another teacher."""
    return load_masked_lm(teacher_dir)


def batch_of(shards, rows, **padding):
    return TensorBatch.of(collate(shards, planned(rows), pad_id=0, **padding))


def counts_of(shards, rows):
    return replace(step_counts(shards, rows), pairs=int((shards.lengths(rows).astype(np.int64) ** 2).sum()))


@pytest.fixture
def step(shards):
    """A batch and its divisors."""
    return [batch_of(shards, ROWS)], counts_of(shards, ROWS)


def run(student, teacher, losses, batches, counts):
    """Return the sums of loss and terms over micro-batches, and the gradients of the student."""
    module = DistillationLoss(student, teacher, losses)
    student.zero_grad()
    total, sums = 0.0, {}
    for batch in batches:
        loss, terms = module(batch, counts)
        loss.backward()
        total += loss.item()
        sums = {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
    return total, sums, {name: parameter.grad.clone() for name, parameter in student.named_parameters()}


def assert_same(result, expected, tolerance=1e-5):
    assert result[0] == pytest.approx(expected[0], rel=tolerance)
    assert result[1] == pytest.approx(expected[1], rel=tolerance)
    scale = max(gradient.norm() for gradient in expected[2].values())
    for name, gradient in expected[2].items():
        assert (result[2][name] - gradient).norm() <= tolerance * scale, name


def plain_run(student, teacher, losses, batch):
    """Compute loss, terms and gradients of one batch from the full outputs of transformers, as means."""
    student.zero_grad()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "output_hidden_states": True}
    own = student(**inputs)
    with torch.no_grad():
        other = teacher(**inputs, token_type_ids=batch.token_type_ids)
    real = batch.attention_mask.flatten().nonzero().flatten()
    own_logits, other_logits = (outputs.logits.flatten(0, 1) for outputs in (own, other))
    rows = batch.mask_index if losses.ce_positions == "masked" else real
    t = losses.temperature
    p, q = (other_logits[rows] / t).softmax(1), (own_logits[rows] / t).softmax(1)
    h, g = (outputs.hidden_states[-1].flatten(0, 1)[real] for outputs in (own, other))
    terms = {
        "ce": t**2 * (p * (p.log() - q.log())).sum(1).mean(),
        "mlm": -own_logits.log_softmax(1)[batch.mask_index, batch.mask_labels].mean(),
        "cos": (1 - (h * g).sum(1) / (h.norm(dim=1) * g.norm(dim=1))).mean(),
        "mse": ((own_logits - other_logits)[rows] ** 2).sum(1).mean(),
        **plain_layer_terms(student, teacher, own, other, batch, losses),
    }
    loss = sum(losses.alphas[name] * term for name, term in terms.items())
    loss.backward()
    reported = {name: term.item() for name, term in terms.items() if losses.alphas[name] or name == "mlm"}
    return loss.item(), reported, {name: parameter.grad for name, parameter in student.named_parameters()}


def plain_layer_terms(student, teacher, own, other, batch, losses):
    """Compute each example without padding: means over tokens or pairs, then over the pairs of layers."""
    lengths = batch.attention_mask.sum(1).tolist()
    terms = {"hidden": [], "attention": [], "values": []}
    # By default, a student layer is compared with the last of the teacher layers that it replaces.
    for student_layer, teacher_layer in losses.layer_map or [(0, 1), (1, 3)]:
        sums = dict.fromkeys(terms, 0.0)
        for example, length in enumerate(lengths):
            mask = torch.ones(1, length)
            after, before = (
                [
                    outputs.hidden_states[layer + shift][example : example + 1, :length]
                    for outputs, layer in ((own, student_layer), (other, teacher_layer))
                ]
                for shift in (1, 0)
            )
            sums["hidden"] += hidden_mse(*after, mask)
            if -1 not in (student_layer, teacher_layer):
                one = student_projections(student, student_layer, before[0])
                two = teacher_projections(teacher, teacher_layer, before[1])
                sums["attention"] += attention_mse(one[:2], two[:2], mask)
                sums["values"] += value_relation_kl(one[2], two[2], mask)
        terms["hidden"].append(sums["hidden"] / sum(lengths))
        if -1 not in (student_layer, teacher_layer):
            terms["attention"].append(sums["attention"] / sum(length**2 for length in lengths))
            terms["values"].append(sums["values"] / sum(lengths))
    return {name: sum(values) / len(values) for name, values in terms.items() if values}


def student_projections(student, layer, states):
    attention = student.distilbert.transformer.layer[layer].attention
    return [split_heads(module(states)) for module in (attention.q_lin, attention.k_lin, attention.v_lin)]


def teacher_projections(teacher, layer, states):
    attention = teacher.bert.encoder.layer[layer].attention.self
    return [split_heads(module(states)) for module in (attention.query, attention.key, attention.value)]


def split_heads(values):
    """Split (1, length, dim) into (1, heads, length, head dim)."""
    return torch.stack(values.chunk(HEADS, dim=-1), dim=1)


@parametrize_losses(*VOCABULARY_CONFIGS, *LAYER_CONFIGS)
def test_loss_terms_and_gradients_match_the_formulas_on_full_logits(shards, student, teacher, losses):
    rows = np.arange(12)
    batch = batch_of(shards, rows)
    result = run(student, teacher, losses, [batch], counts_of(shards, rows))
    assert_same(result, plain_run(student, teacher, losses, batch))


@parametrize_losses(*VOCABULARY_CONFIGS, *LAYER_CONFIGS)
def test_neither_micro_batches_nor_padding_change_the_result(shards, student, teacher, losses):
    rows = np.argsort(shards.lengths(np.arange(len(shards))))[::5][:14]
    counts, parts = counts_of(shards, rows), [rows[:1], rows[1:9], rows[9:]]
    tokens = [int(shards.lengths(part).sum()) for part in parts]
    assert max(tokens) > 3 * min(tokens)
    tight, wide = ([batch_of(shards, part, multiple=multiple) for part in parts] for multiple in (1, 32))
    assert wide[0].input_ids.shape[1] > tight[0].input_ids.shape[1]
    whole = run(student, teacher, losses, [batch_of(shards, rows)], counts)
    for batches in (tight, wide):
        assert_same(run(student, teacher, losses, batches, counts), whole)


def test_without_a_teacher_the_loss_is_masked_lm_only(student, step):
    loss, terms, _ = run(student, None, MASKED_LM_ONLY, *step)
    assert terms == {"mlm": pytest.approx(loss, rel=1e-6)}
    assert loss > 0


def test_a_teacher_as_its_own_student_has_no_loss_except_masked_lm(teacher, bert, step):
    weights = {f"alpha_{name}": 1.0 for name in ("mse", "hidden", "attention", "values")}
    _, terms, _ = run(bert, teacher, LossConfig(**weights, layer_map=[(-1, -1), (0, 0), (3, 3)]), *step)
    assert terms.pop("mlm") > 0.1
    assert len(terms) == 6
    assert max(abs(term) for term in terms.values()) < 1e-6


@parametrize_losses(*LAYER_CONFIGS)
def test_recomputed_activations_give_the_same_gradients(student, teacher, losses, step):
    expected = run(student, teacher, losses, *step)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(run(student.train(), teacher, losses, *step), expected)


def test_hooks_of_an_earlier_objective_do_not_change_the_terms(student, teacher, step):
    first = run(student, teacher, LAYER_MAP, *step)
    run(student, teacher, ALL_LOSSES, *step)
    assert_same(run(student, teacher, LAYER_MAP, *step), first, 0.0)


@parametrize_losses(LossConfig(), *LAYER_CONFIGS)
def test_the_teacher_gets_no_gradient(student, bert, losses, step):
    (batch,), counts = step
    DistillationLoss(student, bert, losses)(batch, counts)[0].backward()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in bert.parameters())


def test_the_teacher_is_not_a_submodule(student, teacher):
    module = DistillationLoss(student, teacher, LossConfig(alpha_hidden=1.0))
    assert {id(parameter) for parameter in module.parameters()} == {id(parameter) for parameter in student.parameters()}
    assert teacher not in list(module.modules())
    module.train()
    assert student.training
    assert not teacher.training


def test_no_activation_stays_in_memory_after_the_loss_is_deleted(student, bert, step):
    module = DistillationLoss(student, bert, ALL_LOSSES)
    activations = []
    for layer in (student.distilbert.transformer.layer[0].attention.q_lin, bert.bert.encoder.layer[1]):
        layer.register_forward_hook(lambda _module, _inputs, output: activations.append(weakref.ref(output)))
    (batch,), counts = step
    module(batch, counts)
    gc.collect()
    assert [activation() for activation in activations] == [None, None]


def test_every_parameter_of_the_student_is_trained(shards, student, teacher):
    _, _, gradients = run(student, teacher, LossConfig(), [batch_of(shards, np.arange(20))], LossDivisors(600, 80))
    # The bias of the keys shifts all attention scores of a token equally, so its gradient is always 0.
    assert [name for name, gradient in gradients.items() if not gradient.any() and "k_lin.bias" not in name] == []


@parametrize_losses(LossConfig(), ALL_LOSSES)
def test_the_loss_of_a_bf16_forward_pass_is_fp32_and_close(student, teacher, losses, step):
    (batch,), counts = step
    exact, _ = DistillationLoss(student, teacher, losses)(batch, counts)
    loss, terms = DistillationLoss(student, teacher, losses, torch.bfloat16)(batch, counts)
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


@parametrize_losses(LossConfig(), LossConfig(ce_positions="masked"))
def test_a_micro_batch_may_have_no_masked_token(shards, student, teacher, losses):
    empty = np.empty(0, np.int64)
    batch = replace(collate(shards, planned(ROWS), pad_id=0), mask_index=empty, mask_labels=empty)
    loss, terms, _ = run(student, teacher, losses, [TensorBatch.of(batch)], LossDivisors(40, 1))
    assert math.isfinite(loss)
    assert terms["mlm"] == 0
