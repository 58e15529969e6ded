"""Estimate of the memory of a training worker, from the shapes of its models.

Memory peaks at the end of the forward pass, when the activations of all layers exist and a loss needs its working
memory. Each term below stands for tensors that torch keeps until the backward pass, or that exist at the peak. A test
compares the sum with a trace of the real step. On a GPU, CUDA and its libraries need about 0.5 GB more.
"""

from dataclasses import dataclass
from typing import Any

import torch

from distilray.config.distillation import LossConfig, TrainingConfig
from distilray.distillation.compilation import is_loss_compiled
from distilray.distillation.vocabulary_loss import BLOCK_ROWS, CHUNK_ROWS
from distilray.models.flops import ModelSize, model_size
from distilray.models.masked_lm import count_parameters
from distilray.models.precision import compute_dtype

_GB = 1e9
_FP32 = 4  # bytes
_STATE_BYTES = 16  # per trained parameter: the parameter, its gradient and two moments, in fp32
_FP32_BLOCKS = 8  # of logits at the same time in the vocabulary loss without compilation
_FP32_SCORES = 3  # of attention at the same time in a layer-wise loss, besides those that it keeps


def worker_memory_gb(
    config: TrainingConfig,
    losses: LossConfig,
    *,
    max_seq_length: int,
    masked_share: float,
    model: Any,
    teacher: Any | None,
) -> float:
    """Estimate the peak memory of one worker in gigabytes, for a micro-batch of the longest examples.

    Args:
        max_seq_length: tokens of the longest example.
        masked_share: fraction of the tokens that are masked.
        model: the model to train. Only its shape is used, so it may be on the meta device.
        teacher: the frozen teacher, if it runs.
    """
    step = _Step.of(config, losses, max_seq_length, masked_share, model, teacher is not None)
    weights = count_parameters(model) * _STATE_BYTES
    if teacher is not None:
        weights += count_parameters(teacher) * step.width
    if config.activation_checkpointing:
        layers, recomputed = step.size.layers * step.states, step.layer
    else:
        layers, recomputed = step.size.layers * step.layer, 0
    forward = weights + step.weight_copies + step.embeddings + layers + step.outputs + step.recorded
    return (forward + max(step.vocabulary, step.cosine + step.layer_wise, recomputed)) / _GB


@dataclass(frozen=True)
class _Step:
    """Bytes of the tensors of a micro-step.

    Attributes:
        size: shape of the trained model; its teacher has the same width.
        tokens: tokens of the micro-batch.
        rows: tokens that pass through the head.
        width: bytes per number in matrix products.
        device: `cuda` or `cpu`.
    """

    config: TrainingConfig
    losses: LossConfig
    size: ModelSize
    heads: int
    length: int
    tokens: int
    rows: int
    width: int
    device: str
    has_teacher: bool

    @classmethod
    def of(
        cls,
        config: TrainingConfig,
        losses: LossConfig,
        length: int,
        masked_share: float,
        model: Any,
        has_teacher: bool,
    ) -> "_Step":
        """Return the micro-step with the longest examples."""
        tokens = config.micro_batch_size * length
        if config.micro_batch_tokens is not None:
            tokens = min(tokens, config.micro_batch_tokens)
        device = "cuda" if config.scaling.use_gpu else "cpu"
        # `auto` depends on the GPU, which may be that of another machine.
        precision = "bf16" if config.precision == "auto" and device == "cuda" else config.precision
        return cls(
            config=config,
            losses=losses,
            size=model_size(model),
            heads=model.config.num_attention_heads,
            length=length,
            tokens=tokens,
            rows=tokens if losses.compared_positions == "all" else round(masked_share * tokens),
            width=compute_dtype(precision, torch.device(device)).itemsize,
            device=device,
            has_teacher=has_teacher,
        )

    @property
    def states(self) -> int:
        """Hidden states of a layer, in fp32: layer norms compute in fp32."""
        return self.tokens * self.size.dim * _FP32

    @property
    def layer(self) -> int:
        """Activations of a Transformer layer."""
        tokens, dim, width = self.tokens, self.size.dim, self.width
        # Inputs of the projections and of the feed-forward network: 4 copies in 16 bits, or 2 tensors in fp32.
        inputs = 8 * tokens * dim
        attention = 4 * tokens * dim * width  # queries, keys, values and output
        # The fused kernel keeps only a mask; plain attention keeps probabilities, dropout and their product.
        maps = 1 if self.device == "cuda" else 3 * self.heads
        attention += maps * tokens * self.length * width
        inner = 2 * tokens * self.size.hidden_dim * width  # before and after the activation function
        norms = 2 * self.states  # their inputs
        dropout = tokens * dim
        return inputs + attention + inner + norms + dropout

    @property
    def embeddings(self) -> int:
        """Input of the layer norm of the embeddings, and their dropout."""
        return self.states + self.tokens * self.size.dim

    @property
    def weight_copies(self) -> int:
        """Matrices in the dtype of the products: those of the layers, and the vocabulary of both models."""
        layers = self.size.layer_parameters if self.width < _FP32 else 0
        return self.width * (layers + 2 * self.size.vocabulary * self.size.dim)

    @property
    def outputs(self) -> int:
        """Last hidden states of both models, and their heads."""
        return 2 * self.states + self.rows * self.size.dim * (2 * _FP32 + 4 * self.width)

    @property
    def cosine(self) -> int:
        """Hidden states of real tokens, their normalized copies, and the product, in the cosine loss."""
        return 5 * self.states if self.losses.alpha_cos and self.has_teacher else 0

    @property
    def vocabulary(self) -> int:
        """Working memory of the vocabulary loss: logits of a chunk, their gradient, and the gradient of the matrix."""
        chunk = min(self.rows, CHUNK_ROWS[self.device])
        models = 1 + self.has_teacher
        if is_loss_compiled(self.config, self.device):
            logits = (models + 1) * chunk * self.width
        else:
            logits = models * chunk * self.width + _FP32_BLOCKS * min(chunk, BLOCK_ROWS[self.device]) * _FP32
        return (logits + self.size.dim * _FP32) * self.size.vocabulary

    @property
    def recorded(self) -> int:
        """Outputs of layers for the layer-wise losses: hidden states of both models, and the teacher's projections."""
        projections = 3 * self.tokens * self.size.dim * self.width
        if self.config.activation_checkpointing:
            projections *= 2  # those of the student are not kept for the backward pass
        return self._layer_pairs * (2 * self.states + projections)

    @property
    def layer_wise(self) -> int:
        """Tensors of the layer-wise losses: those that all pairs of layers keep, and the working memory of one."""
        losses, kept, working = self.losses, 0, 0
        if losses.alpha_hidden:
            kept += self.states  # difference
        if losses.alpha_attention:
            kept += 2 * self.states + self._scores  # queries and keys in fp32, and the difference of their products
        if losses.alpha_values:
            kept += self.states + 2 * self._scores  # values in fp32, and the relations of both models
        if losses.alpha_attention or losses.alpha_values:
            working = _FP32_SCORES * self._scores
        return self._layer_pairs * kept + working

    @property
    def _layer_pairs(self) -> int:
        return len(self.losses.layer_map or range(self.size.layers)) if self.losses.layer_alphas else 0

    @property
    def _scores(self) -> int:
        """One number in fp32 for each head and each pair of tokens of an example."""
        return self.tokens * self.length * self.heads * _FP32
