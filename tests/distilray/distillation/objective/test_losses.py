import math

import pytest
import torch

from distilray.distillation.losses import distillation_kl, hidden_cosine, masked_lm

TOKENS, VOCABULARY, DIM = 9, 31, 12


def random_tensor(*shape, seed, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def value_and_gradient(function, tensor):
    leaf = tensor.clone().requires_grad_()
    value = function(leaf)
    value.backward()
    return value.detach().double(), leaf.grad.double()


def assert_equal(found, expected):
    for have, want in zip(found, expected, strict=True):
        assert (have - want).norm() <= 1e-6 * want.norm()


def plain_softmax(logits):
    powers = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    return powers / powers.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
def test_the_kl_is_t_squared_times_the_sum_of_p_log_p_over_q(temperature):
    student, teacher = (random_tensor(TOKENS, VOCABULARY, seed=seed, scale=3.0) for seed in (1, 2))

    def plain(logits):
        p, q = plain_softmax(teacher.double() / temperature), plain_softmax(logits / temperature)
        return temperature**2 * (p * (p.log() - q.log())).sum()

    found = value_and_gradient(lambda logits: distillation_kl(logits, teacher, temperature), student)
    assert_equal(found, value_and_gradient(plain, student.double()))


def test_the_gradient_of_the_kl_is_t_times_the_difference_of_the_distributions():
    student, teacher = (random_tensor(TOKENS, VOCABULARY, seed=seed) for seed in (3, 4))
    _, gradient = value_and_gradient(lambda logits: distillation_kl(logits, teacher, 2.0), student)
    expected = 2.0 * (plain_softmax(student.double() / 2.0) - plain_softmax(teacher.double() / 2.0))
    assert_equal([gradient], [expected])


def test_with_small_logits_the_size_of_the_gradient_hardly_depends_on_the_temperature():
    student, teacher = (random_tensor(TOKENS, VOCABULARY, seed=seed, scale=0.02) for seed in (5, 6))
    gradients = [
        value_and_gradient(lambda logits, t=t: distillation_kl(logits, teacher, t), student)[1] for t in (1.0, 2.0, 8.0)
    ]
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() < 0.03 * gradients[0].norm()


def test_equal_logits_have_no_kl_and_no_gradient():
    logits = random_tensor(TOKENS, VOCABULARY, seed=7, scale=5.0)
    value, gradient = value_and_gradient(lambda leaf: distillation_kl(leaf, logits, 2.0), logits)
    assert abs(value) < 1e-6
    assert gradient.abs().max() < 1e-6


def test_a_constant_added_to_all_logits_of_a_token_changes_nothing():
    student, teacher = (random_tensor(TOKENS, VOCABULARY, seed=seed) for seed in (8, 9))
    moved = teacher + random_tensor(TOKENS, 1, seed=10)
    assert distillation_kl(student, moved, 2.0) == pytest.approx(
        distillation_kl(student, teacher, 2.0).item(), rel=1e-5
    )


def test_the_kl_adds_up_over_tokens():
    student, teacher = (random_tensor(TOKENS, VOCABULARY, seed=seed) for seed in (11, 12))
    single = sum(distillation_kl(student[[row]], teacher[[row]], 2.0).item() for row in range(TOKENS))
    assert distillation_kl(student, teacher, 2.0).item() == pytest.approx(single, rel=1e-5)


def test_the_masked_lm_loss_is_minus_the_log_probability_of_the_labels():
    logits = random_tensor(TOKENS, VOCABULARY, seed=13, scale=3.0)
    labels = torch.tensor([3, -100, 30, 0, -100, 7, 7, 1, -100])

    def plain(leaf):
        probabilities = plain_softmax(leaf)
        return -sum(probabilities[row, label].log() for row, label in enumerate(labels.tolist()) if label != -100)

    found = value_and_gradient(lambda leaf: masked_lm(leaf, labels), logits)
    assert_equal(found, value_and_gradient(plain, logits.double()))
    assert found[1][labels == -100].abs().max() == 0


def test_the_cosine_loss_is_the_sum_of_one_minus_the_cosine():
    student, teacher = (random_tensor(TOKENS, DIM, seed=seed) for seed in (14, 15))

    def plain(leaf):
        reference = teacher.double()
        return sum(
            1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt() for a, b in zip(leaf, reference, strict=True)
        )

    found = value_and_gradient(lambda leaf: hidden_cosine(leaf, teacher), student)
    assert_equal(found, value_and_gradient(plain, student.double()))


def test_the_cosine_loss_sees_directions_alone():
    hidden = random_tensor(TOKENS, DIM, seed=16)
    assert abs(hidden_cosine(hidden, 7.0 * hidden)) < 1e-5
    assert hidden_cosine(hidden, -hidden).item() == pytest.approx(2.0 * TOKENS, rel=1e-6)


def test_the_losses_of_bf16_inputs_are_computed_in_fp32():
    student, teacher = (random_tensor(TOKENS, VOCABULARY, seed=seed).bfloat16() for seed in (17, 18))
    assert distillation_kl(student, teacher, 2.0).dtype == torch.float32
    assert torch.equal(distillation_kl(student, teacher, 2.0), distillation_kl(student.float(), teacher.float(), 2.0))
    assert masked_lm(torch.zeros(1, 1000, dtype=torch.bfloat16), torch.tensor([5])).item() == pytest.approx(
        math.log(1000)
    )
    assert hidden_cosine(student, teacher).dtype == torch.float32


def test_no_token_gives_no_loss():
    empty = torch.empty(0, VOCABULARY)
    assert distillation_kl(empty, empty, 2.0) == 0
    assert masked_lm(empty, torch.empty(0, dtype=torch.long)) == 0
    assert hidden_cosine(empty, empty) == 0
