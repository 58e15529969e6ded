import math

import pytest
import torch

from distilray.distillation.losses import attention_mse, hidden_cosine, hidden_mse, value_relation_kl

# Examples of 5, 1 and 3 tokens.
BATCH, HEADS, LENGTH, HEAD_DIM = 3, 2, 5, 4
LENGTHS = [5, 1, 3]
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]])


def random_heads(seed, head_dim=HEAD_DIM, tensors=1):
    """Return (tensors, batch, heads, length, head dim)."""
    return torch.randn(tensors, BATCH, HEADS, LENGTH, head_dim, generator=torch.Generator().manual_seed(seed))


def states(heads):
    """Concatenate the heads of the first tensor, (batch, length, dim)."""
    return heads[0].transpose(1, 2).flatten(2)


def cosine(student, teacher, mask):
    real = mask.bool()
    return hidden_cosine(states(student)[real], states(teacher)[real])


def hidden(student, teacher, mask):
    return hidden_mse(states(student), states(teacher), mask)


def attention(student, teacher, mask):
    return attention_mse(tuple(student), tuple(teacher), mask)


def values(student, teacher, mask):
    return value_relation_kl(student[0], teacher[0], mask)


# The formulas in float64, one example without padding at a time; torch computes their gradients.


def tokens_of(heads):
    return torch.cat([example[:length] for example, length in zip(states(heads), LENGTHS, strict=True)])


def plain_cosine(student, teacher):
    pairs = zip(tokens_of(student), tokens_of(teacher), strict=True)
    return sum(1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt() for a, b in pairs)


def plain_hidden(student, teacher):
    pairs = zip(tokens_of(student), tokens_of(teacher), strict=True)
    return sum(((a - b) ** 2).sum() / len(a) for a, b in pairs)


def plain_relations(one, other):
    return torch.stack([torch.stack([(a * b).sum() / math.sqrt(len(a)) for b in other]) for a in one])


def relations_by_head(heads):
    """Yield the scaled products of the first and the last tensor for each head of each example."""
    for example, length in enumerate(LENGTHS):
        for head in range(HEADS):
            yield plain_relations(heads[0, example, head, :length], heads[-1, example, head, :length])


def plain_attention(student, teacher):
    pairs = zip(relations_by_head(student), relations_by_head(teacher), strict=True)
    return sum(((a - b) ** 2).sum() for a, b in pairs) / HEADS


def plain_values(student, teacher):
    total = 0.0
    for a, b in zip(relations_by_head(student), relations_by_head(teacher), strict=True):
        q, p = (powers / powers.sum(1, keepdim=True) for powers in (a.exp(), b.exp()))
        total = total + (p * (p / q).log()).sum()
    return total / HEADS


# Loss, formula, number of tensors per model.
LOSSES = {
    "cosine": (cosine, plain_cosine, 1),
    "hidden": (hidden, plain_hidden, 1),
    "attention": (attention, plain_attention, 2),
    "values": (values, plain_values, 1),
}
every_loss = pytest.mark.parametrize(("loss", "plain", "tensors"), LOSSES.values(), ids=LOSSES)


def value_and_gradient(function, student):
    leaf = student.clone().requires_grad_()
    value = function(leaf)
    value.backward()
    return value.detach().double(), leaf.grad.double()


@pytest.mark.parametrize(
    ("name", "head_dim"),
    [*((name, HEAD_DIM) for name in LOSSES), ("attention", 7), ("values", 7)],  # the width of the teacher's heads
)
def test_value_and_gradient_match_the_formula(name, head_dim):
    loss, plain, tensors = LOSSES[name]
    student, teacher = random_heads(1, tensors=tensors), random_heads(2, head_dim, tensors)
    result = value_and_gradient(lambda leaf: loss(leaf, teacher, MASK), student)
    expected = value_and_gradient(lambda leaf: plain(leaf, teacher.double()), student.double())
    assert expected[0] > 0.1
    for value, expected_value in zip(result, expected, strict=True):
        assert (value - expected_value).norm() <= 1e-6 * expected_value.norm()


@every_loss
def test_equal_models_have_no_loss(loss, plain, tensors):
    heads = random_heads(11, tensors=tensors)
    assert abs(loss(heads, heads.clone(), MASK)) < 1e-5


def test_a_single_token_has_no_value_loss():
    student, teacher = random_heads(9)[..., :1, :], random_heads(10)[..., :1, :]
    value, gradient = value_and_gradient(lambda leaf: values(leaf, teacher, MASK[:, :1]), student)
    assert value == 0
    assert gradient.abs().max() == 0


@every_loss
def test_padding_changes_no_loss_and_gets_no_gradient(loss, plain, tensors):
    student, teacher = random_heads(11, tensors=tensors), random_heads(12, tensors=tensors)
    padding = (MASK == 0)[:, None, :, None]
    filled = student.masked_fill(padding, 1e3), teacher.masked_fill(padding, -1e3)
    value, gradient = value_and_gradient(lambda leaf: loss(leaf, filled[1], MASK), filled[0])
    assert value.item() == pytest.approx(loss(student, teacher, MASK).item(), rel=1e-6)
    sizes = gradient.abs().amax(dim=(0, 2, 4))
    assert sizes[MASK == 0].max() == 0
    # Every other token gets one. The value relation of a single token to itself is always 1.
    assert sizes[[0, 2]][MASK[[0, 2]] == 1].min() > 0


@every_loss
def test_bf16_inputs_are_computed_in_fp32(loss, plain, tensors):
    student, teacher = (random_heads(seed, tensors=tensors).bfloat16() for seed in (11, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(student, teacher, MASK)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(student.float(), teacher.float(), MASK))
    _, gradient = value_and_gradient(lambda leaf: loss(leaf, teacher, MASK), student)
    _, exact = value_and_gradient(lambda leaf: plain(leaf, teacher.double()), student.double())
    assert (gradient - exact).norm() <= 2e-2 * exact.norm()


@every_loss
def test_an_empty_batch_has_no_loss(loss, plain, tensors):
    empty = torch.empty(tensors, 0, HEADS, LENGTH, HEAD_DIM)
    assert loss(empty, empty, torch.empty(0, LENGTH, dtype=torch.long)) == 0
