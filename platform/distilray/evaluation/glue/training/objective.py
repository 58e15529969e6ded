"""The loss of a classifier, and its outputs for every row of a split."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from distilray.config.glue import TaskDistillationConfig
from distilray.evaluation.glue.features import FeatureBatch, Features, collate
from distilray.training.process_group import Workers


class Objective(nn.Module):
    """A weighted sum of the losses of a batch.

    Args:
        model: a classifier.
        dtype: of the matrix products.
        distillation: how a teacher's outputs count; None without a teacher.
    """

    def __init__(self, model: Any, dtype: torch.dtype, distillation: TaskDistillationConfig | None) -> None:
        super().__init__()
        self.model, self._dtype, self._distillation = model, dtype, distillation

    def forward(self, batch: FeatureBatch, weights: Tensor, teacher_outputs: Tensor | None) -> Tensor:
        """The sum of `weights` (batch,) times the losses of the rows; `teacher_outputs`: (batch, num_outputs)."""
        assert batch.labels is not None
        outputs = _outputs(self.model, batch, self._dtype)
        return (weights * row_losses(outputs, batch.labels, teacher_outputs, self._distillation)).sum()


def row_losses(
    outputs: Tensor, labels: Tensor, teacher_outputs: Tensor | None, distillation: TaskDistillationConfig | None
) -> Tensor:
    """(batch,) cross entropy with class ids, squared error to scores; mixed with what a teacher gives.

    The teacher's part is T^2 times the divergence of the softened classes (Hinton et al. 2015), or the squared
    difference to the teacher's score.
    """
    is_regression = labels.is_floating_point()
    own = (outputs[:, 0] - labels) ** 2 if is_regression else F.cross_entropy(outputs, labels, reduction="none")
    if teacher_outputs is None or distillation is None:
        return own
    alpha, temperature = distillation.alpha, distillation.temperature
    if is_regression:
        taught = (outputs[:, 0] - teacher_outputs[:, 0]) ** 2
    else:
        student, teacher = ((logits / temperature).log_softmax(dim=1) for logits in (outputs, teacher_outputs))
        taught = temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return (1.0 - alpha) * own + alpha * taught


@torch.inference_mode()
def predict(
    model: Any,
    features: Features,
    *,
    pad_id: int,
    device: torch.device,
    dtype: torch.dtype,
    workers: Workers | None = None,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """The outputs of a model on `device`, (rows, num_outputs) in the order of rows, the same on every worker.

    Batches do not depend on the number of workers, and so neither do the outputs.
    """
    workers = workers or Workers.single()
    order = np.argsort(features.lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found = np.zeros((len(features), model.config.num_labels), np.float32)
    was_training = model.training
    model.eval()
    for rows in batches[workers.rank :: workers.size]:
        batch = collate(features, rows, pad_id).to(device)
        found[rows] = _outputs(model, batch, dtype).cpu().numpy()
    model.train(was_training)
    return workers.sum(found)


def _outputs(model: Any, batch: FeatureBatch, dtype: torch.dtype) -> Tensor:
    """(batch, num_outputs) in fp32; a DistilBERT has no token types and ignores them."""
    types = {"token_type_ids": batch.token_type_ids} if model.config.model_type == "bert" else {}
    with torch.autocast(batch.input_ids.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Tensor = model(batch.input_ids, attention_mask=batch.attention_mask, **types).logits
    return logits.float()
