import logging

import pytest
import torch
from torch._inductor import metrics

from distilray.distillation import vocabulary_terms as module
from distilray.distillation.vocabulary_terms import (
    Formula,
    StudentLogits,
    fused_vocabulary_terms,
    vocabulary_terms,
)

ROWS, VOCABULARY, TOP_K = 6, 40, 5
ALL_TERMS, KL = Formula(ce=True, mse=True, temperature=2.0), Formula(ce=True, mse=False, temperature=2.0)
FACTORS = torch.tensor([1.0, 0.7, 0.05])
teachers = pytest.mark.parametrize(
    ("formula", "kind"), [(ALL_TERMS, "dense"), (KL, "sparse"), (Formula(False, False, 2.0), None)], ids=str
)


def inputs(kind, *, rows=ROWS, vocabulary=VOCABULARY, dtype=torch.float32):
    """Return logits of a student, and targets of a teacher; a third of the rows have no label."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher_logits = (3 * torch.randn(rows, vocabulary, generator=generator) for _ in range(2))
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    labels[::3] = -100
    best = (teacher_logits / 2).log_softmax(dim=-1).topk(TOP_K)
    ids = best.indices if kind == "sparse" else None
    log_rest = (1 - best.values.double().exp().sum(dim=1, keepdim=True)).log().float()
    sparse = torch.cat([best.values, log_rest], dim=1)
    targets = {"dense": teacher_logits.to(dtype), "sparse": sparse, None: None}[kind]
    return StudentLogits.of(logits.to(dtype), labels, ids), targets


@teachers
def test_masked_lm_on_labeled_rows_equals_masked_lm_on_all_rows(formula, kind):
    results = [vocabulary_terms(*inputs(kind), FACTORS, formula, only_labeled=value) for value in (False, True)]
    for (parts, sums), (expected_parts, expected_sums) in [results]:
        torch.testing.assert_close(sums, expected_sums, rtol=1e-6, atol=0)
        torch.testing.assert_close(parts, expected_parts, rtol=1e-5, atol=1e-7)


@teachers
def test_no_decision_depends_on_the_values_of_tensors(formula, kind):
    # Tensors on the meta device have no values. On a GPU, the host would have to wait for them.
    student, targets = inputs(kind)
    on_meta = StudentLogits.of(
        torch.empty(ROWS, VOCABULARY, device="meta"),
        student.labels.to("meta"),
        None if student.ids is None else student.ids.to("meta"),
    )
    parts, sums = vocabulary_terms(
        on_meta, None if targets is None else targets.to("meta"), FACTORS.to("meta"), formula
    )
    assert [part.shape for part in parts] == [part.shape for part in student.parts]
    assert sums.shape == (3,)


@pytest.mark.slow  # compiles
@pytest.mark.parametrize(
    ("formula", "kind", "logits_read"),
    [(KL, "dense", 2), (KL, "sparse", 1), (Formula(False, False, 2.0), None, 1)],
)
def test_the_compiled_function_reads_logits_twice_and_writes_once(caplog, formula, kind, logits_read):
    rows, vocabulary = 256, 2048
    module._compiled.cache_clear()
    torch.compiler.reset()
    metrics.reset()
    with (
        caplog.at_level(logging.INFO, "torch._inductor.compile_fx"),
        torch._inductor.config.patch(force_disable_caches=True),
    ):
        fused_vocabulary_terms(*inputs(kind, rows=rows, vocabulary=vocabulary, dtype=torch.bfloat16), FACTORS, formula)
    logits = 2 * rows * vocabulary
    per_row = 1024 * rows  # normalizers and labels; a quarter of one more pass
    assert logits < metrics.num_bytes_accessed <= (2 * logits_read + 1) * logits + per_row
