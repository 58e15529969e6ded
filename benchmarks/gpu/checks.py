"""Cells that compare results: a step with the CPU, and a packed forward pass of the service with a padded one."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.cells import Cell
from benchmarks.gpu.workload import FIRST_ID, MASK_ID, SEED, Training, Workload
from distilray.inference.packed_model import PackedMaskedLM
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode
from distilray.models.precision import DTYPES

CPU = torch.device("cpu")
PARITY_ROWS = 4
# Largest relative difference of a loss term and of the gradient, by precision.
LIMITS: Mapping[str, tuple[float, float]] = {"fp32": (1e-5, 1e-4), "bf16": (2e-2, 5e-2), "fp16": (2e-3, 2e-2)}
LOGIT_LIMITS: Mapping[str, float] = {"fp32": 1e-4, "bf16": 3e-2}
# Tokens of the texts of a batch of 32, as in docs/benchmarks.md, and longer ones.
TEXTS: Mapping[str, tuple[int, int]] = {"short": (8, 40), "long": (8, 512)}
TEXT_ROWS = 32


def parity(workload: Workload, cell: Cell) -> dict[str, Any]:
    """Compare loss terms and gradient of one micro-batch with those of the CPU in fp32."""
    terms, gradient = first_step(workload, replace(cell, rows=PARITY_ROWS), workload.device)
    reference_cell = Cell("parity", "fp32", positions=cell.positions, rows=PARITY_ROWS)
    expected_terms, expected_gradient = first_step(workload, reference_cell, CPU)
    term_difference = max(abs(terms[name] - value) / abs(value) for name, value in expected_terms.items())
    difference, worst = gradient_difference(gradient, expected_gradient)
    limits = LIMITS[cell.precision]
    return {
        "terms": terms,
        "expected_terms": expected_terms,
        "term_difference": term_difference,
        "gradient_difference": difference,
        "is_failed": not (term_difference <= limits[0] and difference <= limits[1]),
        "message": f"terms differ by {term_difference:.1e} (at most {limits[0]:g}), the gradient by {difference:.1e} "
        f"(at most {limits[1]:g}), most in {worst}",
    }


def first_step(workload: Workload, cell: Cell, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return loss terms and gradient of the first micro-batch, without dropout and TF32."""
    training = Training(workload, cell, device, dropout=0.0)
    batch = next(training.feed().micro_steps(0, 1))
    with _without_tf32():
        loss, terms = training.objective(0, batch)
        loss.backward()
    gradient = {name: parameter.grad.cpu() for name, parameter in training.student.named_parameters()}
    training.student.zero_grad()
    return {name: float(value) for name, value in {"loss": loss.detach(), **terms}.items()}, gradient


def gradient_difference(gradient: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """Return the norm of the difference relative to the gradient, and the parameter that contributes most to it."""
    squares = {
        name: float((gradient[name].double() - value.double()).square().sum()) for name, value in expected.items()
    }
    total = sum(float(value.double().square().sum()) for value in expected.values())
    return (sum(squares.values()) / total) ** 0.5, max(squares, key=squares.__getitem__)


def service(workload: Workload, cell: Cell) -> dict[str, Any]:
    """Compare the packed forward pass of the service with a padded one: logits at the masks, and texts per second."""
    workload.release()
    model = copy.deepcopy(workload.student).to(workload.device, DTYPES[cell.precision]).eval()
    packed, figures = PackedMaskedLM(model), {}
    for name, (shortest, longest) in TEXTS.items():
        batch = random_texts(workload, shortest, min(longest, workload.length))
        passes = (lambda batch=batch: packed.logits_at(*batch), lambda batch=batch: padded_logits(model, *batch))
        logits, expected = (run() for run in passes)
        rates = [_texts_per_s(run, workload.size.service_s) for run in passes]
        difference = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
        figures[name] = {"packed": rates[0], "padded": rates[1], "difference": difference}
    difference, limit = max(each["difference"] for each in figures.values()), LOGIT_LIMITS[cell.precision]
    speeds = [
        f"{name} {row['packed']:,.0f} texts/s, {row['packed'] / row['padded']:.2f}x" for name, row in figures.items()
    ]
    return {
        "texts": figures,
        "is_failed": not difference <= limit,
        "message": f"{'; '.join(speeds)} of a padded pass; logits differ by {difference:.1e} (at most {limit:g})",
    }


def random_texts(workload: Workload, shortest: int, longest: int) -> tuple[NDArray[np.int64], ...]:
    """Return ids, attention mask and mask index of a batch of texts with one mask each."""
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(min(shortest, longest), longest + 1, size=TEXT_ROWS)
    attention = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(FIRST_ID, workload.teacher.config.vocab_size, size=attention.shape) * attention
    index = np.arange(TEXT_ROWS) * attention.shape[1] + lengths // 2
    ids.reshape(-1)[index] = MASK_ID
    return ids, attention, index


@torch.inference_mode()
def padded_logits(model: Any, ids: Any, attention: Any, index: Any) -> NDArray[np.float32]:
    """Return the logits at the masks, from a padded pass of the encoder and the head at the masks."""
    ids, attention, index = (torch.from_numpy(each).to(model.device) for each in (ids, attention, index))
    states = encode(model, ids, attention, None).flatten(0, 1)[index]
    logits: NDArray[np.float32] = vocabulary_logits(model, states).float().cpu().numpy()
    return logits


def _texts_per_s(run: Callable[[], Any], seconds: float) -> float:
    """Return the texts per second of a forward pass, which ends with a copy to the host."""
    start, passes = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        passes += 1
    return passes * TEXT_ROWS / (time.perf_counter() - start)


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


CELLS: Mapping[str, Any] = {"parity": parity, "service": service}
