"""Floating-point operations of a training step, and peak rates of devices."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distilray.models.architectures import architecture_of

# Dense tensor-core peaks in flops per second, from NVIDIA's data sheets, which also list twice these rates for
# sparse weights. The V100 has no bf16. fp32 is omitted because it depends on whether TF32 is enabled.
_PEAKS: Mapping[str, Mapping[str, float]] = {
    "V100": {"fp16": 125e12},
    "A100": {"bf16": 312e12, "fp16": 312e12},
    "A10G": {"bf16": 70e12, "fp16": 70e12},  # half the peak of an A10
    "L4": {"bf16": 121e12, "fp16": 121e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12},
    "H100": {"bf16": 989e12, "fp16": 989e12},  # SXM; its device name has no suffix
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12},
    "H200": {"bf16": 989e12, "fp16": 989e12},
    "H200 NVL": {"bf16": 835e12, "fp16": 835e12},
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Return the dense peak of a device in flops per second; None if unknown, as for a CPU, fp32 or a MIG slice.

    Args:
        device_name: result of `torch.cuda.get_device_name()`.
        precision: precision of the matrix products: bf16, fp16 or fp32.
    """
    matching = [name for name in _PEAKS if re.search(rf"\b{name}\b", device_name)]
    if not matching or re.search(r"\bMIG\b", device_name):
        return None
    return _PEAKS[max(matching, key=len)].get(precision)


@dataclass(frozen=True)
class ModelSize:
    """Size of an encoder; `hidden_dim` is the inner dimension of the feed-forward layers."""

    layers: int
    dim: int
    hidden_dim: int
    vocabulary: int

    @property
    def layer_parameters(self) -> int:
        """Number of matrix weights in all layers: queries, keys, values, output and feed-forward."""
        return self.layers * (4 * self.dim**2 + 2 * self.dim * self.hidden_dim)

    def forward_flops(self, tokens: int, squared_lengths: int, head_rows: int) -> int:
        """Return the flops of a forward pass; for the arguments see `step_flops`."""
        head = self.dim * (self.dim + self.vocabulary)  # transform and decoder of the masked-LM head
        products = 2 * (self.layer_parameters * tokens + head * head_rows)
        return products + 4 * self.layers * self.dim * squared_lengths


def model_size(model: Any) -> ModelSize:
    config = model.config
    inner = architecture_of(config).config_value(config, "intermediate_size")
    return ModelSize(config.num_hidden_layers, config.hidden_size, inner, config.vocab_size)


def step_flops(
    student: ModelSize,
    *,
    teacher: ModelSize | None,
    tokens: int,
    squared_lengths: int,
    head_rows: int,
    teacher_head_rows: int = 0,
) -> int:
    """Return the flops of an optimizer step: forward and backward of the student, forward of the teacher.

    Every matrix weight costs 2 flops per token in the forward pass and 4 in the backward pass, so N weights cost 6 N
    (Kaplan et al. 2020, section 2.1); embedding lookups are free. Attention scores and weighted sums add 12 x layers x
    dim x length per token of the student (Chowdhery et al. 2022, PaLM, appendix B), and 4 x layers x dim x length per
    token of the teacher, which has no backward pass. Padding, recomputation, norms and losses are not counted, as usual
    for model flops utilization.

    Args:
        student: the model to train.
        teacher: None for masked language modeling without a teacher.
        tokens: real tokens of the step over all workers.
        squared_lengths: sum of the squared lengths of the examples, without padding.
        head_rows: tokens that pass through the student's masked-LM head, all or only the masked ones.
        teacher_head_rows: the same for the teacher; 0 if no loss uses its logits.
    """
    flops = 3 * student.forward_flops(tokens, squared_lengths, head_rows)
    if teacher is not None:
        flops += teacher.forward_flops(tokens, squared_lengths, teacher_head_rows)
    return flops
