"""Floating-point operations of BERT and DistilBERT, and the peaks of devices."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distilray.models.architectures import architecture_of

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


def peak_flops(device_name: str, precision: str) -> float | None:
    """Dense peak of a device in flops per second; None when it is unknown, as for a CPU, fp32 or a slice (MIG).

    Args:
        device_name: of `torch.cuda.get_device_name()`.
        precision: of the matrix products: bf16, fp16 or fp32.
    """
    known = [name for name in _PEAKS if re.search(rf"\b{name}\b", device_name)]
    if not known or re.search(r"\bMIG\b", device_name):
        return None
    return _PEAKS[max(known, key=len)].get(precision)


@dataclass(frozen=True)
class ModelSize:
    """Size of a BERT or DistilBERT; `hidden_dim` is the one inside the feed-forward part."""

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


def model_size(model: Any) -> ModelSize:
    """Return the size of a BERT or DistilBERT."""
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
