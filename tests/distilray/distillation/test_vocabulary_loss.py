import math
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distilray.distillation import vocabulary_loss as vocabulary
from distilray.distillation import vocabulary_terms as compiler
from distilray.distillation.vocabulary_loss import DenseTeacher, Factors, SparseTeacher, vocabulary_loss

ROWS, VOCABULARY, DIM, TEACHER_DIM, TOP_K = 9, 31, 12, 17, 4
NO_LABELS = torch.full((ROWS,), -100)
LABELS = torch.tensor([3, -100, 30, 0, -100, 7, 7, 1, -100])
ALL_TERMS, SPARSE_TERMS = Factors(ce=0.7, mlm=0.4, mse=0.02), Factors(ce=0.7, mlm=0.4)
# Factors, and the number of tokens of a sparse teacher. With a temperature, the three combinations have their largest
# factor in different terms.
CASES = {
    "ce": (Factors(ce=1.0), None),
    "mlm": (Factors(mlm=1.0), None),
    "mse": (Factors(mse=1.0), None),
    "mostly ce": (ALL_TERMS, None),
    "mostly mlm": (Factors(ce=0.03, mlm=1.5, mse=0.1), None),
    "mostly mse": (Factors(ce=0.01, mlm=0.02, mse=3.0), None),
    "sparse ce, 1 token": (Factors(ce=1.0), 1),
    "sparse ce, 4 tokens": (Factors(ce=1.0), TOP_K),
    "sparse ce, all but one token": (Factors(ce=1.0), VOCABULARY - 1),
    "sparse ce and mlm": (SPARSE_TERMS, TOP_K),
}
FP32, BF16 = 1e-6, 2e-2
every_case = pytest.mark.parametrize(("factors", "top_k"), CASES.values(), ids=CASES)
dense_and_sparse = pytest.mark.parametrize(
    ("factors", "top_k"), [(ALL_TERMS, None), (SPARSE_TERMS, TOP_K)], ids=["dense", "sparse"]
)


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


def create_student(*, rows=ROWS, dtype=torch.float32):
    """Student whose logits have a magnitude of about 3."""
    leaves = (
        random_tensor(rows, DIM, seed=1).to(dtype),
        random_tensor(VOCABULARY, DIM, seed=2, scale=3 / math.sqrt(DIM)),
        random_tensor(VOCABULARY, seed=3),
    )
    return Student(*(leaf.requires_grad_() for leaf in leaves))


def create_teacher(top_k=None, *, temperature=2.0, rows=ROWS, dtype=torch.float32):
    """Teacher with another width than the student, or its most probable tokens."""
    dense = DenseTeacher(
        random_tensor(rows, TEACHER_DIM, seed=4).to(dtype),
        random_tensor(VOCABULARY, TEACHER_DIM, seed=5, scale=3 / math.sqrt(TEACHER_DIM)).to(dtype),
        random_tensor(VOCABULARY, seed=6).to(dtype),
    )
    return dense if top_k is None else most_probable(logits_of(dense), top_k, temperature)


def logits_of(model):
    """Logits of a student or a teacher, in float64."""
    return model.hidden.double() @ model.weight.double().T + model.bias.double()


def with_logits(kind, logits):
    """Student or teacher whose hidden states are its logits."""
    width = logits.shape[-1]
    leaves = logits.clone(), torch.eye(width), torch.zeros(width)
    return kind(*(leaf.requires_grad_(kind is Student) for leaf in leaves))


def most_probable(teacher_logits, k, temperature):
    probabilities, ids = plain_softmax(teacher_logits.double() / temperature).topk(k, dim=1)
    rest = 1 - probabilities.sum(1, keepdim=True)
    return SparseTeacher(ids, probabilities.log().float(), rest.float())


# The formulas in float64, without chunks; torch computes their gradients.


def plain_softmax(logits):
    powers = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
    return powers / powers.sum(dim=1, keepdim=True)


def plain_kl(student_logits, teacher, temperature):
    """KL of the softened distributions; a sparse teacher has all tokens that it does not know as one event."""
    q = plain_softmax(student_logits / temperature)
    if isinstance(teacher, SparseTeacher):
        known = teacher.log_probabilities.double().exp(), q.gather(1, teacher.ids)
        p, q = (torch.cat([each, 1 - each.sum(1, keepdim=True)], dim=1) for each in known)
    else:
        p = plain_softmax(logits_of(teacher) / temperature)
    return temperature**2 * (p * (p.log() - q.log())).sum()


def plain_masked_lm(student_logits, labels):
    probabilities = plain_softmax(student_logits)
    rows = [(row, label) for row, label in enumerate(labels.tolist()) if label != -100]
    return sum((-probabilities[row, label].log() for row, label in rows), torch.zeros((), dtype=torch.float64))


def run_plain(student, teacher, factors, *, labels=LABELS, temperature=2.0):
    """Return loss, terms and gradients; a term without a factor is 0, except masked LM."""
    exact = student.exact()
    logits = logits_of(exact)
    zero = torch.zeros((), dtype=torch.float64)
    terms = {"ce": zero, "mlm": plain_masked_lm(logits, labels), "mse": zero}
    if factors.ce:
        terms["ce"] = plain_kl(logits, teacher, temperature)
    if factors.mse:
        terms["mse"] = ((logits - logits_of(teacher)) ** 2).sum()
    loss = sum(factor * terms[name] for name, factor in vars(factors).items() if factor)
    loss.backward()
    return loss.detach(), {name: term.detach() for name, term in terms.items()}, exact.gradients()


def loss_of(student, teacher=None, factors=ALL_TERMS, *, labels=LABELS, temperature=2.0, compiled=False):
    teacher = teacher or create_teacher()
    leaves = vars(student).values()
    return vocabulary_loss(
        *leaves, labels, teacher=teacher, factors=factors, temperature=temperature, compiled=compiled
    )


def run(student, teacher, factors, *, upstream=1.0, **values):
    """Return loss, terms and gradients of the code under test."""
    loss, terms = loss_of(student, teacher, factors, **values)
    (loss * upstream).backward()
    return loss.detach().double(), {name: term.double() for name, term in terms.items()}, student.gradients()


def assert_near(result, expected, tolerance=FP32):
    assert (result - expected).norm() <= tolerance * expected.norm()


def assert_same(result, expected, tolerance=FP32):
    """Compare loss, terms and gradients."""
    assert_near(result[0], expected[0], tolerance)
    assert result[1].keys() == expected[1].keys()
    for name, term in expected[1].items():
        assert_near(result[1][name], term, tolerance)
    for gradient, expected_gradient in zip(result[2], expected[2], strict=True):
        assert_near(gradient, expected_gradient, tolerance)


@every_case
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
@pytest.mark.parametrize(("chunk", "block"), [(512, 16), (9, 4), (4, 3), (5, 7), (1, 1)])
def test_loss_terms_and_gradients_match_the_formulas(monkeypatch, factors, top_k, temperature, chunk, block):
    monkeypatch.setattr(vocabulary, "CHUNK_ROWS", {"cpu": chunk})
    monkeypatch.setattr(vocabulary, "BLOCK_ROWS", {"cpu": block})
    student, teacher = create_student(), create_teacher(top_k, temperature=temperature)
    tensors = [*vars(student).values(), *vars(teacher).values(), LABELS]
    before = [tensor.detach().clone() for tensor in tensors]
    result = run(student, teacher, factors, temperature=temperature)
    assert_same(result, run_plain(student, teacher, factors, temperature=temperature))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


@every_case
def test_padding_of_the_vocabulary_changes_nothing(monkeypatch, factors, top_k):
    monkeypatch.setattr(vocabulary, "_VOCABULARY_MULTIPLE", {"cpu": 64})
    student, teacher = create_student(), create_teacher(top_k)
    assert_same(run(student, teacher, factors), run_plain(student, teacher, factors))


@pytest.fixture
def fresh_compiler():
    """Compiled functions are forgotten before and after a test."""
    compiler._compiled.cache_clear()
    torch.compiler.reset()
    yield
    compiler._compiled.cache_clear()
    torch.compiler.reset()


COMPILED_CASES = {name: CASES[name] for name in ("mlm", "mostly ce", "sparse ce and mlm")}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("factors", "top_k"), COMPILED_CASES.values(), ids=COMPILED_CASES)
def test_one_compiled_function_matches_the_formulas_for_any_rows_and_factors(monkeypatch, factors, top_k):
    monkeypatch.setattr(vocabulary, "CHUNK_ROWS", {"cpu": 7})
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, share in [(ROWS, 1.0), (5, 0.3), (12, 1.0), (8, 0.01)]:
            student, teacher, labels = (
                create_student(rows=rows),
                create_teacher(top_k, rows=rows),
                LABELS.repeat(2)[:rows],
            )
            scaled = Factors(ce=factors.ce * share, mlm=factors.mlm, mse=factors.mse * share**2)
            result = run(student, teacher, scaled, labels=labels, compiled=True)
            assert_same(result, run_plain(student, teacher, scaled, labels=labels))


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FP32), (torch.float16, BF16), (torch.bfloat16, BF16)])
def test_inputs_of_any_dtype_give_fp32_losses_near_the_formulas(factors, top_k, dtype, tolerance):
    student, teacher = create_student(dtype=dtype), create_teacher(top_k, dtype=dtype)
    loss, terms = loss_of(student, teacher, factors)
    loss.backward()
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
    assert [leaf.grad.dtype for leaf in vars(student).values()] == [dtype, torch.float32, torch.float32]
    expected = run_plain(student, teacher, factors)
    assert_same(
        (loss.double(), {name: term.double() for name, term in terms.items()}, student.gradients()), expected, tolerance
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.5])
def test_a_sparse_teacher_with_the_whole_vocabulary_equals_the_dense_one(temperature):
    student, factors = create_student(), Factors(ce=1.0)
    sparse = create_teacher(VOCABULARY, temperature=temperature)
    expected = run_plain(student, create_teacher(), factors, temperature=temperature)
    # Its probabilities add up to 1 within 1e-7; the missing probability counts as one more event.
    assert_same(run(student, sparse, factors, temperature=temperature), expected, 3e-6)


@pytest.mark.parametrize("factors", [Factors(ce=1.0), Factors(mse=1.0)], ids=["ce", "mse"])
def test_equal_logits_have_no_loss_and_no_gradient(factors):
    logits = random_tensor(ROWS, VOCABULARY, seed=7, scale=5.0)
    loss, _, gradients = run(with_logits(Student, logits), with_logits(DenseTeacher, logits), factors)
    assert abs(loss) < 1e-6
    assert gradients[0].abs().max() < 1e-6


def test_extreme_logits_give_finite_losses_and_gradients():
    logits = 1e4 * torch.eye(ROWS, VOCABULARY)
    teachers = with_logits(DenseTeacher, logits.roll(1, dims=1)), create_teacher(3)
    for teacher in teachers:
        loss, _, gradients = run(with_logits(Student, logits), teacher, Factors(ce=1.0, mlm=1.0))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_student_and_a_sparse_teacher_that_are_certain_have_the_gradient_of_the_formula():
    logits, certain = random_tensor(ROWS, VOCABULARY, seed=3), torch.eye(1, VOCABULARY)
    student = with_logits(Student, logits + 20.0 * certain)
    arguments = student, most_probable(logits + 13.0 * certain, TOP_K, 1.0), Factors(ce=1.0)
    result, expected = run(*arguments, temperature=1.0), run_plain(*arguments, temperature=1.0)
    assert_same((*result[:2], result[2][:1]), (*expected[:2], expected[2][:1]), 1e-3)


@pytest.mark.parametrize(
    ("rows", "factors", "top_k"),
    [(ROWS, Factors(mlm=1.0), None), (0, ALL_TERMS, None), (0, SPARSE_TERMS, TOP_K)],
    ids=["no labels", "no rows", "no rows, sparse"],
)
def test_without_rows_or_labels_loss_and_gradients_are_zero(rows, factors, top_k):
    student, teacher = create_student(rows=rows), create_teacher(top_k, rows=rows)
    loss, terms, gradients = run(student, teacher, factors, labels=NO_LABELS[:rows])
    assert loss == 0
    assert all(term == 0 for term in terms.values())
    assert not any(gradient.any() for gradient in gradients)


def test_losses_of_bf16_logits_are_computed_in_fp32():
    student = with_logits(Student, torch.zeros(1, 1000, dtype=torch.bfloat16))
    loss, _ = loss_of(student, factors=Factors(mlm=1.0), labels=torch.tensor([5]))
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-6)


@pytest.mark.parametrize("upstream", [3.0, -0.25, 0.0])
def test_gradients_are_multiplied_by_the_upstream_gradient(upstream):
    arguments = create_student(), create_teacher(), ALL_TERMS
    gradients = run(*arguments, upstream=upstream)[2]
    for gradient, expected in zip(gradients, run_plain(*arguments)[2], strict=True):
        assert_near(gradient, upstream * expected)


@pytest.mark.parametrize("factors", [Factors(ce=5e-3, mlm=2e-2), Factors(ce=5e-5, mlm=2e-5)], ids=str)
def test_the_loss_scale_of_fp16_cancels_out_in_the_gradients(factors):
    # As in a real step: weights of a few units divided by up to hundreds of thousands of tokens.
    arguments, scale = (create_student(dtype=torch.float16), create_teacher(dtype=torch.float16), factors), 65536.0
    gradients = run(*arguments, upstream=scale)[2]
    for gradient, expected in zip(gradients, run_plain(*arguments)[2], strict=True):
        assert gradient.isfinite().all()
        assert_near(gradient / scale, expected, 5e-3)


@dense_and_sparse
def test_loss_and_terms_are_the_same_without_a_gradient(factors, top_k):
    student, teacher = create_student(), create_teacher(top_k)
    with torch.no_grad():
        no_grad, terms = loss_of(student, teacher, factors)
    frozen, _ = loss_of(Student(*(leaf.detach() for leaf in vars(student).values())), teacher, factors)
    assert not no_grad.requires_grad
    assert not frozen.requires_grad
    expected = run(student, teacher, factors)
    assert no_grad == frozen == expected[0].float()
    assert {name: term.double() for name, term in terms.items()} == expected[1]


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_only_leaves_that_require_it_get_a_gradient(trained):
    expected = create_student()
    loss_of(expected)[0].backward()
    student = create_student()
    for name, leaf in vars(student).items():
        leaf.requires_grad_(name == trained)
    loss_of(student)[0].backward()
    assert {name for name, leaf in vars(student).items() if leaf.grad is not None} == {trained}
    assert torch.equal(getattr(student, trained).grad, getattr(expected, trained).grad)


def test_a_second_backward_pass_has_the_same_gradient():
    student = create_student()
    loss, _ = loss_of(student)
    first, second = (torch.autograd.grad(loss, list(vars(student).values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_autocast_changes_nothing():
    outside = run(create_student(), create_teacher(), ALL_TERMS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(create_student(), create_teacher(), ALL_TERMS)
    assert inside[:2] == outside[:2]
    assert all(torch.equal(one, two) for one, two in zip(inside[2], outside[2], strict=True))


class LargestLogits(TorchDispatchMode):
    """Records the largest number of rows with a vocabulary dimension that any operation returned, by dtype."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCABULARY,):
                self.rows[tensor.dtype] = max(self.rows.get(tensor.dtype, 0), tensor.numel() // VOCABULARY)
        return result


@dense_and_sparse
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_at_most_one_chunk_of_logits_and_one_block_in_fp32_exist_at_once(monkeypatch, dtype, factors, top_k):
    chunk, block, rows = 40, TEACHER_DIM + 1, 10 * ROWS  # a transposed matrix has as many rows as there are dimensions
    monkeypatch.setattr(vocabulary, "CHUNK_ROWS", {"cpu": chunk})
    monkeypatch.setattr(vocabulary, "BLOCK_ROWS", {"cpu": block})
    student, teacher = create_student(rows=rows, dtype=dtype), create_teacher(top_k, rows=rows, dtype=dtype)
    with LargestLogits() as largest:
        run(student, teacher, factors, labels=LABELS.repeat(10))
    assert largest.rows[dtype] == chunk
    assert dtype == torch.float32 or largest.rows[torch.float32] == block
