"""Projected speed of a distillation step on a GPU that nobody has measured: roofline arithmetic (Williams et al. 2009).

Matrix products are limited by the peak of the device, everything else by its memory bandwidth. `benchmarks.step_trace`
counts the bytes of the real step, from which the formula here was derived (docs/benchmarks.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from distilray.models.flops import ModelSize

# Shares of peak and bandwidth in the data sheet that large kernels reach; assumed.
MATRIX_PRODUCT_SHARE, BANDWIDTH_SHARE = 0.70, 0.85
# Share of its projection that a real run reaches: that of the published run on A100 in machines.yaml. The rest is time
# between kernels, communication and input.
REAL_RUN_SHARE = 0.70
PROJECTION = (
    "projected from the FLOPs and bytes of the step, times the share of its projection that the published run on A100 "
    f"reaches, {REAL_RUN_SHARE:.0%}"
)


@dataclass(frozen=True)
class Roofline:
    """Peak FLOPs per second and memory bandwidth in bytes per second of a device, as in its data sheet."""

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, flops: float = 0.0, memory_bytes: float = 0.0) -> float:
        """Return the time of a kernel."""
        compute_s = flops / (MATRIX_PRODUCT_SHARE * self.flops_per_s)
        return max(compute_s, memory_bytes / (BANDWIDTH_SHARE * self.bytes_per_s))


@dataclass(frozen=True)
class StepWork:
    """Work of some micro-steps of a distillation.

    Attributes:
        flops: model FLOPs.
        tokens: tokens that pass through the encoders.
        head_rows: tokens at which student and teacher compute logits.
        teacher: None if the teacher does not run.
    """

    flops: float
    tokens: float
    head_rows: float
    micro_steps: float
    student: ModelSize
    teacher: ModelSize | None
    is_16_bit: bool
    has_compiled_layers: bool = False
    has_compiled_loss: bool = False


@dataclass(frozen=True)
class _Bytes:
    """Bytes that element-wise kernels read and write.

    Attributes:
        student: per token, layer and dimension, in both passes; teacher: in the forward pass.
        hidden: per token and dimension, for the embeddings and the losses on hidden states.
        head: per row of the head and dimension, for its transform.
        matrix: per weight of the output matrix and micro-step; layer_weights: per weight of the student's layers.
    """

    student: float
    teacher: float
    hidden: float
    head: float = 74
    matrix: float = 32
    layer_weights: float = 0


# By `is_16_bit` and `has_compiled_layers`. Compilation merges the kernels between two matrix products.
_BYTES: Mapping[tuple[bool, bool], _Bytes] = {
    (True, False): _Bytes(student=249, teacher=79, hidden=162, layer_weights=16),
    (True, True): _Bytes(student=160, teacher=53, hidden=162, layer_weights=16),
    (False, False): _Bytes(student=261, teacher=76, hidden=130),
    (False, True): _Bytes(student=216, teacher=57, hidden=130),
}
# Bytes of the loss per row of the head and token of the vocabulary, for the logits of both models, by `is_16_bit` and
# `has_compiled_loss`. Without compilation, there are about 30 intermediate results in fp32 for every logit.
_LOGIT_BYTES: Mapping[tuple[bool, bool], float] = {
    (True, False): 227,
    (True, True): 14.6,
    (False, False): 216,
    (False, True): 29.6,
}


def element_wise_bytes(work: StepWork) -> float:
    """Return the bytes that all kernels but matrix products and attention read and write."""
    student, each = work.student, _BYTES[work.is_16_bit, work.has_compiled_layers]
    logits = _LOGIT_BYTES[work.is_16_bit, work.has_compiled_loss]
    layers = student.layers * each.student
    if work.teacher is not None:
        layers += work.teacher.layers * each.teacher
    hidden = work.tokens * student.dim * (layers + each.hidden)
    head = work.head_rows * (student.dim * each.head + student.vocabulary * logits)
    weights = student.vocabulary * student.dim * each.matrix + student.layer_parameters * each.layer_weights
    return hidden + head + work.micro_steps * weights


def projected_mfu(work: StepWork, device: Roofline) -> float:
    """Return the projected share of the device's peak, in micro-steps without update and communication."""
    seconds = device.seconds(work.flops) + device.seconds(memory_bytes=element_wise_bytes(work))
    return REAL_RUN_SHARE * work.flops / (device.flops_per_s * seconds)
