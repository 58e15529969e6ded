import math

import pytest
import torch

from distilray.distillation.losses import attention_mse, hidden_cosine, hidden_mse, value_relation_kl

TOKENS, DIM = 9, 12
# Examples of 5, 1 and 3 tokens.
BATCH, HEADS, LENGTH, HEAD_DIM = 3, 2, 5, 4
LENGTHS = [5, 1, 3]
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]])


def random_tensor(*shape, seed, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def random_heads(*seeds, head_dim=HEAD_DIM):
    return tuple(random_tensor(BATCH, HEADS, LENGTH, head_dim, seed=seed) for seed in seeds)


def value_and_gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    value.backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves)]


def assert_equal(found, expected):
    for have, want in zip(found, expected, strict=True):
        assert (have - want).norm() <= 1e-6 * want.norm()


def assert_is(function, plain, *tensors):
    """Check value and gradients against the plain formula in float64."""
    expected = value_and_gradients(plain, *(tensor.double() for tensor in tensors))
    assert_equal(value_and_gradients(function, *tensors), expected)


def heads_of(tensor):
    """Return (length, head dim) of each head of each example, without padding."""
    return [tensor[example, head, :length] for example, length in enumerate(LENGTHS) for head in range(HEADS)]


def plain_relations(one, other):
    return torch.stack([torch.stack([(a * b).sum() / math.sqrt(len(a)) for b in other]) for a in one])


def plain_attention_mse(teacher):
    def plain(queries, keys):
        sums = 0.0
        ours = zip(heads_of(queries), heads_of(keys), strict=True)
        theirs = zip(*(heads_of(tensor.double()) for tensor in teacher), strict=True)
        for own, other in zip(ours, theirs, strict=True):
            sums = sums + ((plain_relations(*own) - plain_relations(*other)) ** 2).sum()
        return sums / HEADS

    return plain


def plain_value_relation_kl(teacher):
    def plain(values):
        sums = 0.0
        for own, other in zip(heads_of(values), heads_of(teacher.double()), strict=True):
            p, q = (
                powers / powers.sum(1, keepdim=True)
                for powers in (plain_relations(other, other).exp(), plain_relations(own, own).exp())
            )
            sums = sums + (p * (p / q).log()).sum()
        return sums / HEADS

    return plain


# The last hidden states.


def test_the_cosine_loss_is_the_sum_of_one_minus_the_cosine():
    student, teacher = (random_tensor(TOKENS, DIM, seed=seed) for seed in (14, 15))

    def plain(leaf):
        reference = teacher.double()
        return sum(
            1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt() for a, b in zip(leaf, reference, strict=True)
        )

    assert_is(lambda leaf: hidden_cosine(leaf, teacher), plain, student)


def test_the_cosine_loss_sees_directions_alone():
    hidden = random_tensor(TOKENS, DIM, seed=16)
    assert abs(hidden_cosine(hidden, 7.0 * hidden)) < 1e-5
    assert hidden_cosine(hidden, -hidden).item() == pytest.approx(2.0 * TOKENS, rel=1e-6)


# The hidden states of layers.


def test_the_hidden_loss_is_the_squared_distance_over_the_dimensions():
    student, teacher = (random_tensor(BATCH, LENGTH, DIM, seed=seed) for seed in (1, 2))

    def plain(leaf):
        real = zip(_tokens(leaf[:, None], MASK), _tokens(teacher[:, None].double(), MASK), strict=True)
        return sum(((a - b) ** 2).sum() / DIM for a, b in real)

    assert_is(lambda leaf: hidden_mse(leaf, teacher, MASK), plain, student)


# Attention.


def test_the_attention_loss_is_the_squared_difference_of_the_scores_of_real_pairs():
    student, teacher = random_heads(3, 4), random_heads(5, 6)
    assert_is(lambda *leaves: attention_mse(leaves, teacher, MASK), plain_attention_mse(teacher), *student)


def test_the_attention_loss_compares_heads_of_different_widths():
    student, teacher = random_heads(3, 4), random_heads(5, 6, head_dim=7)
    assert_is(lambda *leaves: attention_mse(leaves, teacher, MASK), plain_attention_mse(teacher), *student)


def test_the_attention_loss_sees_the_scores_alone():
    queries, keys = random_heads(7, 8)
    assert abs(attention_mse((2.0 * queries, 0.5 * keys), (queries, keys), MASK)) < 1e-10


# Values.


def test_the_value_loss_is_the_kl_of_the_relations_of_real_tokens():
    student, teacher = random_heads(9, 10)
    assert_is(lambda leaf: value_relation_kl(leaf, teacher, MASK), plain_value_relation_kl(teacher), student)


def test_the_value_loss_compares_heads_of_different_widths():
    (student,), (teacher,) = random_heads(9), random_heads(10, head_dim=7)
    assert_is(lambda leaf: value_relation_kl(leaf, teacher, MASK), plain_value_relation_kl(teacher), student)


def test_a_token_alone_has_no_value_loss():
    student, teacher = random_heads(9, 10)
    value, gradient = value_and_gradients(
        lambda leaf: value_relation_kl(leaf, teacher[:, :, :1], MASK[:, :1]), student[:, :, :1]
    )
    assert value == 0
    assert gradient.abs().max() == 0


# All of them.

LOSSES = {
    "cosine": lambda student, teacher, mask: hidden_cosine(_tokens(student, mask), _tokens(teacher, mask)),
    "hidden": lambda student, teacher, mask: hidden_mse(_states(student), _states(teacher), mask),
    "attention": lambda student, teacher, mask: attention_mse((student, student), (teacher, teacher), mask),
    "values": value_relation_kl,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def _states(heads):
    """Concatenate heads, (batch, length, dim)."""
    return heads.transpose(1, 2).flatten(2)


def _tokens(heads, mask):
    """Select the real tokens, (tokens, dim)."""
    return heads.transpose(1, 2).flatten(2)[mask.bool()]


@every_loss
def test_equal_models_lose_nothing(loss):
    (same,) = random_heads(11)
    assert abs(loss(same, same.clone(), MASK)) < 1e-5


@every_loss
def test_a_loss_of_different_models_is_positive(loss):
    assert loss(*random_heads(11, 12), MASK) > 0.1


@every_loss
def test_a_loss_adds_up_over_examples(loss):
    student, teacher = random_heads(11, 12)
    single = sum(loss(student[[row]], teacher[[row]], MASK[[row]]).item() for row in range(BATCH))
    assert loss(student, teacher, MASK).item() == pytest.approx(single, rel=1e-5)


@every_loss
def test_what_is_at_padding_does_not_count(loss):
    student, teacher = random_heads(11, 12)
    padding = (MASK == 0)[:, None, :, None]
    filled = [heads.masked_fill(padding, 1e3 * sign) for heads, sign in ((student, 1), (teacher, -1))]
    assert loss(*filled, MASK).item() == pytest.approx(loss(student, teacher, MASK).item(), rel=1e-6)


@every_loss
def test_padding_gets_no_gradient_and_every_real_token_some(loss):
    student, teacher = random_heads(11, 12)
    _, gradient = value_and_gradients(lambda leaf: loss(leaf, teacher, MASK), student)
    sizes = gradient.abs().amax(dim=(1, 3))
    assert sizes[MASK == 0].max() == 0
    # The value relation of a single token to itself is always 1.
    assert sizes[MASK.sum(dim=1) > 1][MASK[MASK.sum(dim=1) > 1] == 1].min() > 0


@every_loss
def test_the_loss_of_bf16_inputs_is_computed_in_fp32(loss):
    student, teacher = (heads.bfloat16() for heads in random_heads(11, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher, MASK)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(student.float(), teacher.float(), MASK))


@every_loss
def test_the_gradient_of_bf16_inputs_is_near(loss):
    student, teacher = (heads.bfloat16() for heads in random_heads(11, 12))
    _, gradient = value_and_gradients(lambda leaf: loss(leaf, teacher, MASK), student)
    _, exact = value_and_gradients(lambda leaf: loss(leaf, teacher.double(), MASK), student.double())
    assert (gradient - exact).norm() <= 2e-2 * exact.norm()


@every_loss
def test_no_example_gives_no_loss(loss):
    empty = torch.empty(0, HEADS, LENGTH, HEAD_DIM)
    assert loss(empty, empty, torch.empty(0, LENGTH, dtype=torch.long)) == 0
