import math
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distilray.distillation import vocabulary_loss as vocabulary
from distilray.distillation.vocabulary_loss import DenseTeacher, Factors, SparseTeacher, vocabulary_loss

ROWS, VOCABULARY, DIM, TEACHER_DIM = 9, 31, 12, 17
NO_LABELS = torch.full((ROWS,), -100)
LABELS = torch.tensor([3, -100, 30, 0, -100, 7, 7, 1, -100])
KL, MASKED_LM, SQUARES = Factors(ce=1.0), Factors(mlm=1.0), Factors(mse=1.0)
# With a temperature, the first and last have their largest factor in different terms.
ALL_TERMS = [Factors(ce=0.7, mlm=0.4, mse=0.02), Factors(ce=0.03, mlm=1.5, mse=0.1), Factors(0.01, 0.02, 3.0)]
FP32, BF16 = 1e-6, 2e-2


@dataclass
class Student:
    """Leaf tensors whose gradients are compared."""

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def gradients(self):
        return [leaf.grad.double() for leaf in vars(self).values()]

    def exact(self):
        """Return the same values as float64 leaves, with the matrix rounded as in the forward pass."""
        dtype = self.hidden.dtype
        return Student(*(leaf.detach().to(dtype).double().requires_grad_() for leaf in vars(self).values()))


def random_tensor(*shape, seed, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def some_student(*, rows=ROWS, dtype=torch.float32, seed=1):
    """Student whose logits have a magnitude of about 3."""
    leaves = (
        random_tensor(rows, DIM, seed=seed).to(dtype),
        random_tensor(VOCABULARY, DIM, seed=seed + 1, scale=3 / math.sqrt(DIM)),
        random_tensor(VOCABULARY, seed=seed + 2),
    )
    return Student(*(leaf.requires_grad_() for leaf in leaves))


def some_teacher(*, rows=ROWS, dtype=torch.float32, seed=4):
    """Teacher with another width than the student."""
    return DenseTeacher(
        random_tensor(rows, TEACHER_DIM, seed=seed).to(dtype),
        random_tensor(VOCABULARY, TEACHER_DIM, seed=seed + 1, scale=3 / math.sqrt(TEACHER_DIM)).to(dtype),
        random_tensor(VOCABULARY, seed=seed + 2).to(dtype),
    )


def logits_of(model):
    """Logits of a student or a teacher, in float64."""
    return model.hidden.double() @ model.weight.double().T + model.bias.double()


def as_student(logits):
    """Student whose hidden states are its logits."""
    width = logits.shape[-1]
    return Student(*(leaf.requires_grad_() for leaf in (logits.clone(), torch.eye(width), torch.zeros(width))))


def as_teacher(logits):
    return DenseTeacher(logits, torch.eye(logits.shape[-1]), torch.zeros(logits.shape[-1]))


def most_probable(teacher_logits, k, temperature):
    probabilities, ids = plain_softmax(teacher_logits.double() / temperature).topk(k, dim=1)
    return SparseTeacher(ids, probabilities.log().float())


def plain_softmax(logits):
    powers = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    return powers / powers.sum(dim=1, keepdim=True)


def plain_kl(own, other, temperature):
    p, q = plain_softmax(other / temperature), plain_softmax(own / temperature)
    return temperature**2 * (p * (p.log() - q.log())).sum()


def plain_sparse_kl(own, teacher, temperature):
    """KL of each row over the known tokens, with all other tokens as one event."""
    total = 0.0
    for row, q in enumerate(plain_softmax(own / temperature)):
        ids = teacher.ids[row].tolist()
        p = teacher.log_probabilities[row].double().exp()
        for place, token in enumerate(ids):
            total = total + p[place] * (p[place].log() - q[token].log())
        rest, own_rest = 1 - p.sum(), sum(q[token] for token in range(len(q)) if token not in ids)
        total = total + rest * (rest.log() - own_rest.log())
    return temperature**2 * total


def plain_masked_lm(own, labels):
    chosen = [(row, label) for row, label in enumerate(labels.tolist()) if label != -100]
    probabilities = plain_softmax(own)
    return sum((-probabilities[row, label].log() for row, label in chosen), torch.zeros((), dtype=own.dtype))


def plain_terms(own, labels, teacher, temperature):
    """Return the three sums of float64 logits, in float64."""
    terms = {"mlm": plain_masked_lm(own, labels)}
    if isinstance(teacher, SparseTeacher):
        return {**terms, "ce": plain_sparse_kl(own, teacher, temperature)}
    other = logits_of(teacher)
    return {**terms, "ce": plain_kl(own, other, temperature), "mse": ((own - other) ** 2).sum()}


def run(student, teacher, factors, *, labels=LABELS, temperature=2.0, upstream=1.0):
    """Return value, terms and gradients of the code under test."""
    loss, terms = vocabulary_loss(
        *vars(student).values(), labels, teacher=teacher, factors=factors, temperature=temperature
    )
    (loss * upstream).backward()
    return loss.detach().double(), {name: term.double() for name, term in terms.items()}, student.gradients()


def run_plain(student, teacher, factors, *, labels=LABELS, temperature=2.0):
    exact = student.exact()
    terms = plain_terms(logits_of(exact), labels, teacher, temperature)
    loss = sum(value * terms[name] for name, value in vars(factors).items() if value)
    loss.backward()
    return loss.detach(), {name: term.detach() for name, term in terms.items()}, exact.gradients()


def assert_near(found, expected, tolerance):
    assert (found - expected).norm() <= tolerance * expected.norm()


def assert_same(found, expected, tolerance=FP32, *, terms=("ce", "mlm", "mse")):
    assert_near(found[0], expected[0], tolerance)
    for name in terms:
        assert_near(found[1][name], expected[1][name], tolerance)
    for have, want in zip(found[2], expected[2], strict=True):
        assert_near(have, want, tolerance)


def kl_of(student_logits, teacher_logits, temperature=2.0):
    """Return the KL and its gradient with respect to the student's logits."""
    loss, _, gradients = run(
        as_student(student_logits), as_teacher(teacher_logits), KL, labels=NO_LABELS, temperature=temperature
    )
    return loss, gradients[0]


# The formulas.


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
def test_the_kl_is_t_squared_times_the_sum_of_p_log_p_over_q(temperature):
    given = some_student(), some_teacher(), KL
    found, expected = run(*given, temperature=temperature), run_plain(*given, temperature=temperature)
    assert_same(found, expected, terms=["ce"])


@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
def test_the_kl_of_a_sparse_teacher_takes_the_rest_as_one_event(temperature, k):
    given = some_student(), most_probable(logits_of(some_teacher()), k, temperature), KL
    found, expected = run(*given, temperature=temperature), run_plain(*given, temperature=temperature)
    assert_same(found, expected, terms=["ce"])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
def test_a_sparse_teacher_of_the_whole_vocabulary_is_the_dense_one(temperature):
    student, teacher = some_student(), some_teacher()
    sparse = most_probable(logits_of(teacher), VOCABULARY, temperature)
    expected = run_plain(student, teacher, KL, temperature=temperature)
    # Its probabilities add up to 1 within 1e-7; the missing probability counts as one more event.
    assert_same(run(student, sparse, KL, temperature=temperature), expected, 3e-6, terms=["ce"])


def test_the_masked_lm_loss_is_minus_the_log_probability_of_the_labels():
    student = some_student()
    assert_same(run(student, None, MASKED_LM), run_plain(student, some_teacher(), MASKED_LM), terms=["mlm"])


def test_the_mse_is_the_sum_of_the_squared_differences_of_the_logits():
    given = some_student(), some_teacher(), SQUARES
    assert_same(run(*given), run_plain(*given), terms=["mse"])


@pytest.mark.parametrize("factors", ALL_TERMS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
def test_all_terms_together_are_the_weighted_sum_of_the_formulas(temperature, factors):
    given = some_student(), some_teacher(), factors
    assert_same(run(*given, temperature=temperature), run_plain(*given, temperature=temperature))


def test_a_sparse_teacher_and_masked_lm_together_are_the_weighted_sum_of_the_formulas():
    given = some_student(), most_probable(logits_of(some_teacher()), 4, 2.0), Factors(ce=0.7, mlm=0.4)
    assert_same(run(*given), run_plain(*given), terms=["ce", "mlm"])


@pytest.mark.parametrize("factors", [KL, MASKED_LM, SQUARES, *ALL_TERMS], ids=str)
def test_of_bf16_inputs_value_and_gradient_are_near_the_formulas(factors):
    given = some_student(dtype=torch.bfloat16), some_teacher(dtype=torch.bfloat16), factors
    assert_same(run(*given), run_plain(*given), BF16, terms=[name for name, value in vars(factors).items() if value])


def test_of_bf16_inputs_the_kl_of_a_sparse_teacher_is_near_the_formula():
    given = some_student(dtype=torch.bfloat16), most_probable(logits_of(some_teacher()), 4, 2.0), KL
    assert_same(run(*given), run_plain(*given), BF16, terms=["ce"])


# What follows from the formulas.


def test_the_gradient_of_the_kl_is_t_times_the_difference_of_the_distributions():
    student, teacher = (random_tensor(ROWS, VOCABULARY, seed=seed) for seed in (3, 4))
    expected = 2.0 * (plain_softmax(student.double() / 2.0) - plain_softmax(teacher.double() / 2.0))
    assert_near(kl_of(student, teacher)[1], expected, FP32)


def test_with_small_logits_the_size_of_the_gradient_hardly_depends_on_the_temperature():
    student, teacher = (random_tensor(ROWS, VOCABULARY, seed=seed, scale=0.02) for seed in (5, 6))
    gradients = [kl_of(student, teacher, temperature)[1] for temperature in (1.0, 2.0, 8.0)]
    for gradient in gradients[1:]:
        assert_near(gradient, gradients[0], 0.03)


def test_equal_logits_have_no_kl_and_no_gradient():
    logits = random_tensor(ROWS, VOCABULARY, seed=7, scale=5.0)
    value, gradient = kl_of(logits, logits)
    assert abs(value) < 1e-6
    assert gradient.abs().max() < 1e-6


def test_equal_logits_have_no_squares_and_no_gradient():
    logits = random_tensor(ROWS, VOCABULARY, seed=7, scale=5.0)
    loss, _, gradients = run(as_student(logits), as_teacher(logits), SQUARES)
    assert loss == 0
    assert gradients[0].abs().max() == 0


@pytest.mark.parametrize("moved", ["student", "teacher"])
def test_a_constant_added_to_all_logits_of_a_row_changes_no_kl(moved):
    logits = {"student": random_tensor(ROWS, VOCABULARY, seed=8), "teacher": random_tensor(ROWS, VOCABULARY, seed=9)}
    expected = kl_of(logits["student"], logits["teacher"])
    logits[moved] = logits[moved] + random_tensor(ROWS, 1, seed=10)
    for found, wanted in zip(kl_of(logits["student"], logits["teacher"]), expected, strict=True):
        assert_near(found, wanted, 1e-5)


def test_logits_far_apart_give_finite_losses_and_gradients():
    far = 1e4 * torch.eye(ROWS, VOCABULARY)
    for teacher in (as_teacher(far.roll(1, dims=1)), most_probable(random_tensor(ROWS, VOCABULARY, seed=1), 3, 2.0)):
        loss, _, gradients = run(as_student(far), teacher, Factors(ce=1.0, mlm=1.0))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_student_that_is_sure_has_the_gradient_of_a_sparse_teacher_too():
    logits, sure = random_tensor(ROWS, VOCABULARY, seed=3), torch.eye(1, VOCABULARY)
    given = as_student(logits + 20.0 * sure), most_probable(logits + 13.0 * sure, 4, 1.0), KL
    found, expected = run(*given, temperature=1.0), run_plain(*given, temperature=1.0)
    assert_same((*found[:2], found[2][:1]), (*expected[:2], expected[2][:1]), 1e-3, terms=["ce"])


@pytest.mark.parametrize("factors", [KL, MASKED_LM, SQUARES, *ALL_TERMS], ids=str)
def test_the_losses_add_up_over_rows(factors):
    student, teacher = some_student(), some_teacher()
    single = 0.0
    for row in range(ROWS):
        part = Student(student.hidden[[row]], student.weight, student.bias)
        alone = DenseTeacher(teacher.hidden[[row]], teacher.weight, teacher.bias)
        loss, _ = vocabulary_loss(*vars(part).values(), LABELS[[row]], teacher=alone, factors=factors, temperature=2.0)
        loss.backward()
        single += loss.item()
    summed = student.gradients()
    whole = run(some_student(), teacher, factors)
    assert whole[0].item() == pytest.approx(single, rel=1e-5)
    for have, want in zip(whole[2], summed, strict=True):
        assert_near(have, want, 1e-5)


def test_rows_without_a_label_get_no_gradient_from_masked_lm():
    _, _, gradients = run(some_student(), None, MASKED_LM)
    assert gradients[0][LABELS == -100].abs().max() == 0
    assert gradients[0][LABELS != -100].abs().sum(dim=1).min() > 0


def test_no_label_gives_no_masked_lm_and_no_gradient():
    loss, terms, gradients = run(some_student(), None, MASKED_LM, labels=NO_LABELS)
    assert loss == terms["mlm"] == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients)


@pytest.mark.parametrize("sparse", [False, True])
def test_no_row_gives_no_loss_and_no_gradient(sparse):
    dense = some_teacher(rows=0)
    nothing = SparseTeacher(torch.empty(0, 4, dtype=torch.long), torch.empty(0, 4))
    factors = Factors(ce=1.0, mlm=1.0) if sparse else ALL_TERMS[0]
    loss, terms, gradients = run(some_student(rows=0), nothing if sparse else dense, factors, labels=LABELS[:0])
    assert loss == 0
    assert all(term == 0 for term in terms.values())
    assert all(not gradient.any() for gradient in gradients)


def test_the_terms_are_the_sums_without_their_factors():
    small, large = (run(some_student(), some_teacher(), factors)[1] for factors in (ALL_TERMS[0], ALL_TERMS[2]))
    assert small == large


def test_masked_lm_is_reported_even_without_weight():
    student, teacher = some_student(), some_teacher()
    found, expected = run(student, teacher, KL), run_plain(student, teacher, KL)
    assert_same(found, expected, terms=["mlm"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_terms_are_fp32_and_a_gradient_is_of_the_dtype_of_its_input(dtype):
    student = some_student(dtype=dtype)
    loss, terms = vocabulary_loss(
        *vars(student).values(), LABELS, teacher=some_teacher(dtype=dtype), factors=ALL_TERMS[0], temperature=2.0
    )
    loss.backward()
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
    assert [leaf.grad.dtype for leaf in vars(student).values()] == [dtype, torch.float32, torch.float32]


def test_the_losses_of_bf16_logits_are_computed_in_fp32():
    hidden = torch.zeros(1, 1000, dtype=torch.bfloat16)
    loss, _ = vocabulary_loss(
        hidden, torch.eye(1000), torch.zeros(1000), torch.tensor([5]), teacher=None, factors=MASKED_LM, temperature=1.0
    )
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-6)


# Autograd.


@pytest.mark.parametrize("upstream", [3.0, -0.25, 0.0])
def test_the_gradient_is_scaled_by_the_upstream_gradient(upstream):
    given = some_student(), some_teacher(), ALL_TERMS[0]
    _, _, gradients = run(*given, upstream=upstream)
    for have, want in zip(gradients, run_plain(*given)[2], strict=True):
        assert (have - upstream * want).norm() <= FP32 * abs(upstream) * want.norm()


@pytest.mark.parametrize("factors", [Factors(ce=5e-3, mlm=2e-2), Factors(ce=5e-5, mlm=2e-5)], ids=str)
def test_a_scaled_loss_of_fp16_hidden_states_has_the_gradient_after_division(factors):
    # As in a real step: weights of a few units divided by up to hundreds of thousands of tokens.
    given = some_student(dtype=torch.float16), some_teacher(dtype=torch.float16), factors
    scale = 65536.0
    _, _, gradients = run(*given, upstream=scale)
    for have, want in zip(gradients, run_plain(*given)[2], strict=True):
        assert have.isfinite().all()
        assert_near(have / scale, want, 5e-3)


@pytest.mark.parametrize("sparse", [False, True])
def test_without_a_gradient_the_loss_is_the_same(sparse):
    student, teacher = some_student(), some_teacher()
    if sparse:
        teacher = most_probable(logits_of(teacher), 4, 2.0)
    factors = Factors(ce=0.7, mlm=0.4)
    given = {"teacher": teacher, "factors": factors, "temperature": 2.0}
    with torch.no_grad():
        unseen, terms = vocabulary_loss(*vars(student).values(), LABELS, **given)
    frozen, _ = vocabulary_loss(*(leaf.detach() for leaf in vars(student).values()), LABELS, **given)
    assert not unseen.requires_grad
    assert not frozen.requires_grad
    found = run(student, teacher, factors)
    assert unseen == frozen == found[0].float()
    assert {name: term.double() for name, term in terms.items()} == found[1]


@pytest.mark.parametrize("wanted", ["hidden", "weight", "bias"])
def test_a_single_leaf_that_asks_for_it_gets_its_gradient(wanted):
    expected = dict(zip(vars(some_student()), run(some_student(), some_teacher(), ALL_TERMS[0])[2], strict=True))
    student = some_student()
    for name, leaf in vars(student).items():
        leaf.requires_grad_(name == wanted)
    loss, _ = vocabulary_loss(
        *vars(student).values(), LABELS, teacher=some_teacher(), factors=ALL_TERMS[0], temperature=2.0
    )
    loss.backward()
    assert {name for name, leaf in vars(student).items() if leaf.grad is not None} == {wanted}
    assert torch.equal(getattr(student, wanted).grad.double(), expected[wanted])


def test_a_second_backward_pass_has_the_same_gradient():
    student = some_student()
    loss, _ = vocabulary_loss(
        *vars(student).values(), LABELS, teacher=some_teacher(), factors=ALL_TERMS[0], temperature=2.0
    )
    first, second = (torch.autograd.grad(loss, list(vars(student).values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("sparse", [False, True])
def test_the_inputs_stay_as_they_are(sparse):
    student, teacher = some_student(), some_teacher()
    if sparse:
        teacher = most_probable(logits_of(teacher), 4, 2.0)
    tensors = [*vars(student).values(), *vars(teacher).values(), LABELS]
    before = [tensor.detach().clone() for tensor in tensors]
    run(student, teacher, Factors(ce=0.7, mlm=0.4, mse=0.0 if sparse else 0.1))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


def test_under_autocast_nothing_changes():
    given = some_teacher(), ALL_TERMS[0]
    outside = run(some_student(), *given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(some_student(), *given)
    assert inside[:2] == outside[:2]
    assert all(torch.equal(one, two) for one, two in zip(inside[2], outside[2], strict=True))


# Chunks, blocks and memory.


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("chunk", "block"), [(9, 9), (9, 4), (4, 4), (4, 3), (5, 7), (1, 1)])
def test_rows_in_chunks_and_blocks_have_the_loss_of_all_at_once(monkeypatch, chunk, block, sparse):
    monkeypatch.setattr(vocabulary, "_CHUNK_ROWS", {"cpu": chunk})
    monkeypatch.setattr(vocabulary, "_BLOCK_ROWS", {"cpu": block})
    student, teacher, factors, terms = some_student(), some_teacher(), ALL_TERMS[0], ["ce", "mlm", "mse"]
    if sparse:
        teacher, factors, terms = most_probable(logits_of(teacher), 4, 2.0), Factors(ce=0.7, mlm=0.4), ["ce", "mlm"]
    assert_same(run(student, teacher, factors), run_plain(student, teacher, factors), terms=terms)


class RowsOfLogits(TorchDispatchMode):
    """Largest number of rows with a vocabulary dimension that any operation returned, by dtype."""

    def __init__(self):
        super().__init__()
        self.most = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCABULARY,):
                self.most[tensor.dtype] = max(self.most.get(tensor.dtype, 0), tensor.numel() // VOCABULARY)
        return found


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_are_made_of_a_chunk_and_in_fp32_of_a_block_at_most(monkeypatch, dtype, sparse):
    chunk, block = 40, TEACHER_DIM + 1  # a transposed matrix has as many rows as there are dimensions
    monkeypatch.setattr(vocabulary, "_CHUNK_ROWS", {"cpu": chunk})
    monkeypatch.setattr(vocabulary, "_BLOCK_ROWS", {"cpu": block})
    student, teacher = some_student(rows=10 * ROWS, dtype=dtype), some_teacher(rows=10 * ROWS, dtype=dtype)
    if sparse:
        teacher = most_probable(logits_of(teacher), 4, 2.0)
    with RowsOfLogits() as rows:
        run(student, teacher, Factors(ce=1.0, mlm=1.0, mse=0.0 if sparse else 1.0), labels=LABELS.repeat(10))
    assert rows.most[dtype] == chunk
    assert dtype == torch.float32 or rows.most[torch.float32] == block
