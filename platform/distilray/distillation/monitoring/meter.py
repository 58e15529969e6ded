"""What a training run tells about itself: mean losses, throughput, utilisation, memory, time left."""

import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

_T = TypeVar("_T")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

# Dense peaks of the tensor cores in flops per second, from NVIDIA's data sheets; those state twice as much where they
# count on sparse weights. The V100 has no bf16. fp32 is left out: it depends on whether TF32 is on.
_PEAKS: Mapping[str, Mapping[str, float]] = {
    "V100": {"fp16": 125e12},
    "A100": {"bf16": 312e12, "fp16": 312e12},
    "A10G": {"bf16": 70e12, "fp16": 70e12},  # half of what an A10 does
    "L4": {"bf16": 121e12, "fp16": 121e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12},
    "H100": {"bf16": 989e12, "fp16": 989e12},  # SXM: its name says nothing more
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12},
    "H200": {"bf16": 989e12, "fp16": 989e12},
    "H200 NVL": {"bf16": 835e12, "fp16": 835e12},
}


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Dense peak of a device in flops per second; None when it is unknown, as for a CPU, fp32 or a slice (MIG).

    Args:
        device_name: of `torch.cuda.get_device_name()`.
        dtype: of the matrix products: `bf16`, `fp16`, `fp32`, or torch's name of it.
    """
    known = [name for name in _PEAKS if re.search(rf"\b{name}\b", device_name)]
    if not known or re.search(r"\bMIG\b", device_name):
        return None
    short = dtype.removeprefix("torch.")
    return _PEAKS[max(known, key=len)].get(_DTYPES.get(short, short))


@dataclass(frozen=True)
class ModelSize:
    """Of a BERT or DistilBERT: `hidden_dim` is that between the two matrices of the feed-forward part."""

    layers: int
    dim: int
    hidden_dim: int
    vocabulary: int

    @property
    def layer_parameters(self) -> int:
        """Weights of the layers' matrices: queries, keys, values, output, and the feed-forward part."""
        return self.layers * (4 * self.dim**2 + 2 * self.dim * self.hidden_dim)

    def forward_flops(self, tokens: int, squared_lengths: int, head_rows: int) -> int:
        """Flops of a forward pass; the arguments are those of `step_flops`."""
        head = self.dim * (self.dim + self.vocabulary)  # the transform of the head, and its last matrix
        products = 2 * (self.layer_parameters * tokens + head * head_rows)
        return products + 4 * self.layers * self.dim * squared_lengths


def step_flops(
    student: ModelSize,
    *,
    teacher: ModelSize | None,
    tokens: int,
    squared_lengths: int,
    head_rows: int,
    teacher_head_rows: int = 0,
) -> int:
    """Flops that an optimiser step needs: forward and backward of the student, forward of the teacher.

    A weight of a matrix costs a multiplication and an addition for each token, 2 flops forward and 4 backward, so N
    weights cost 6 N (Kaplan et al. 2020, section 2.1); embeddings are looked up and cost nothing. The scores and the
    weighted sum of the attention add 12 x layers x dim x length to each token of the student, forward and backward
    (Chowdhery et al. 2022, PaLM, appendix B), and 4 x layers x dim x length to each of the teacher, forward alone.
    Padding, recomputation, norms and losses are left out: they are work of the hardware, but not of the model.

    Args:
        student: the model that is trained.
        teacher: None for masked language modelling alone.
        tokens: real tokens of the step over all workers.
        squared_lengths: sum of the squared lengths of its examples, without padding.
        head_rows: tokens that pass through the student's vocabulary head, all or only the masked ones.
        teacher_head_rows: the same of the teacher; 0 when no loss looks at its logits.
    """
    flops = 3 * student.forward_flops(tokens, squared_lengths, head_rows)
    if teacher is not None:
        flops += teacher.forward_flops(tokens, squared_lengths, teacher_head_rows)
    return flops


class Meter:
    """Means over the steps since the last row. Every worker has one and asks for each row.

    Args:
        start_step: the steps done before this attempt.
        total_steps: those of the whole run.
        device: the one whose memory is told.
        reduce: gives the sums over all workers of a list of numbers.
        peak_flops: of the devices of all workers together; None leaves `mfu` out.
        clock: seconds, from any origin.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        start_step: int,
        *,
        total_steps: int,
        device: torch.device,
        reduce: Callable[[list[float]], list[float]] = list,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._start, self._done, self._total = start_step, start_step, total_steps
        self._device, self._reduce, self._peak = device, reduce, peak_flops
        self._clock, self._wall_clock = clock, wall_clock
        self._began = clock()
        self._reset(self._began)

    def _reset(self, now: float) -> None:
        self._sums: dict[str, float] = {}
        self._tokens, self._slots, self._flops, self._skipped = 0, 0, 0.0, 0
        self._waited, self._since = 0.0, now

    def timed(self, batches: Iterator[_T]) -> Iterator[_T]:
        """The same batches; the time until each is there counts as waiting for data."""
        while True:
            asked = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += self._clock() - asked
            yield batch

    def add(
        self, terms: Mapping[str, float], *, tokens: int, slots: int, flops: float = 0.0, skipped: bool = False
    ) -> None:
        """One step.

        Args:
            terms: this worker's share of each; they add up over the workers.
            tokens: of the whole step, over all workers.
            slots: these and their padding.
            flops: of the whole step, over all workers.
            skipped: on all workers; the gradient was not finite and nothing was learnt, so its terms do not count.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + (0.0 if skipped else value)
        self._tokens += tokens
        self._slots += slots
        self._flops += flops
        self._skipped += skipped

    def row(self, done: int) -> dict[str, Any]:
        """Means over the steps since the last row, up to step `done`.

        The terms are means over the steps that were not skipped, NaN if there are none. `tokens_per_s` is that of all
        workers together; `padding` a share of the slots; `data_wait` the share of the time that the workers waited for
        batches; `mfu` the share of `peak_flops` that went into the model's own flops; `memory_gb` (10^9 bytes) the most
        that torch has had allocated on this worker's GPU, without one the most that its process has had in memory;
        `eta_s` the seconds left at the pace of this attempt.
        """
        now, names = self._clock(), sorted(self._sums)
        elapsed, counted = now - self._since, done - self._done - self._skipped
        *sums, waited, elapsed_everywhere = self._reduce([*(self._sums[name] for name in names), self._waited, elapsed])
        row: dict[str, Any] = {"step": done}
        row |= {name: total / counted if counted else float("nan") for name, total in zip(names, sums, strict=True)}
        row |= {
            "tokens_per_s": self._tokens / elapsed,
            "padding": 1 - self._tokens / self._slots,
            "data_wait": waited / elapsed_everywhere,
            "memory_gb": _peak_memory(self._device) / 1e9,
            "skipped_steps": self._skipped,
            "eta_s": (self._total - done) * (now - self._began) / (done - self._start),
            "time": self._wall_clock(),
        }
        if self._peak is not None:
            row["mfu"] = self._flops / elapsed / self._peak
        self._done = done
        self._reset(now)
        return row


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
