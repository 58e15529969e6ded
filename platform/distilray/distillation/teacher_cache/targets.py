"""What a frozen teacher says of a batch, as the cache holds it."""

from typing import Any

import torch
from torch import Tensor

from distilray.config.distillation import CacheTeacherConfig
from distilray.distillation.objective import TensorBatch
from distilray.distillation.teachers import CachedTargets, RunTeacher
from distilray.errors import InputError
from distilray.models.masked_lm import encode
from distilray.models.precision import autocast, compute_dtype

_CHUNK_ROWS = 1024  # of logits that are alive at a time


class FrozenTeacher:
    """A teacher on its device.

    Args:
        model: a masked LM in eval mode.

    Attributes:
        config: what is cached of it, and the dtype of its forward pass.
    """

    def __init__(self, model: Any, config: CacheTeacherConfig, device: torch.device) -> None:
        self._dtype = compute_dtype(config.precision, device)
        self._model = model.to(device, self._dtype).requires_grad_(False).eval()
        self.config, self._device = config, device

    @torch.inference_mode()
    def targets(self, batch: TensorBatch) -> CachedTargets:
        """The targets of a batch on the host, at the positions of the config.

        Raises:
            InputError: a hidden state is not finite in 16 bits.
        """
        batch = batch.to(self._device)
        with autocast(self._device, self._dtype):
            states = encode(self._model, batch.input_ids, batch.attention_mask, batch.token_type_ids)
            teacher = RunTeacher(self._model, states, batch.attention_mask, batch.mask_index)
            hidden = teacher.hidden_at_tokens().to("cpu", torch.float16)
            if not hidden.isfinite().all():
                raise InputError(
                    f"{self.config.teacher_dir}: its last hidden states are not finite in 16 bits; "
                    "distil without teacher_cache_dir, or check the teacher"
                )
            ids, logs = self._best(teacher, batch)
        return CachedTargets(hidden, ids, logs)

    def _best(self, teacher: RunTeacher, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        rows = batch.mask_index
        if self.config.positions == "all":
            rows = batch.attention_mask.flatten().nonzero().squeeze(1)
        dense, found = teacher.targets(rows), []
        for start in range(0, max(1, len(rows)), _CHUNK_ROWS):
            logits = dense.chunk(slice(start, start + _CHUNK_ROWS)).float()
            found.append((logits / self.config.temperature).log_softmax(dim=-1).topk(self.config.top_k, dim=-1))
        ids, logs = (torch.cat([getattr(part, name).cpu() for part in found]) for name in ("indices", "values"))
        return ids.to(torch.int32), logs
