"""Floating-point operations of a training step, and peak rates of devices."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distilray.models.architectures import architecture_of

# Dense tensor-core peaks in Tflops per second, for 16 bits and for TF32. NVIDIA's data sheets and architecture white
# papers also list twice these rates for sparse weights and, for GeForce, for sums in fp16.
_BF16_AND_TF32_PEAKS: Mapping[str, tuple[float, float]] = {
    "A10": (125, 62.5),
    "A10G": (70, 35),  # of AWS; half the peak of an A10
    "A30": (165, 82),
    "A40": (149.7, 74.8),
    "A100": (312, 156),
    "RTX A6000": (154.8, 77.4),
    "L4": (121, 60),
    "L40": (181, 90.5),
    "L40S": (362, 183),
    "RTX 4090": (165.2, 82.6),
    "RTX 5090": (209.5, 104.8),
    "H20": (148, 74),
    "H100": (989, 494.5),  # SXM; its device name has no suffix
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 417.5),
    "H200": (989, 494.5),
    "H200 NVL": (835, 417.5),
    "GH200": (989, 494.5),
    "B200": (2250, 1125),
}
# The same for older GPUs. They have neither bf16 nor TF32, so the second peak is that of the fp32 units.
_FP16_AND_FP32_PEAKS: Mapping[str, tuple[float, float]] = {
    "V100": (125, 15.7),
    "V100-PCIE": (112, 14),
    "T4": (65, 8.1),
}
_PEAKS: Mapping[str, Mapping[str, float]] = {
    **{name: {"bf16": half, "fp16": half, "fp32": tf32} for name, (half, tf32) in _BF16_AND_TF32_PEAKS.items()},
    **{name: {"fp16": half, "fp32": fp32} for name, (half, fp32) in _FP16_AND_FP32_PEAKS.items()},
}
_OTHER_CHIP = re.compile(r"\b(MIG|Laptop|D|Ti|SUPER)\b")  # a slice, or a chip with another peak


def peak_flops(device_name: str, precision: str) -> float | None:
    """Return the dense peak of a device in flops per second; None if unknown, as for a CPU or a MIG slice.

    Args:
        device_name: result of `torch.cuda.get_device_name()`.
        precision: precision of the matrix products: bf16, fp16 or fp32, which means TF32 where the device has it.
    """
    matching = [name for name in _PEAKS if re.search(rf"\b{name}\b", device_name)]
    if not matching or _OTHER_CHIP.search(device_name):
        return None
    peak = _PEAKS[max(matching, key=len)].get(precision)
    return None if peak is None else peak * 1e12


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
