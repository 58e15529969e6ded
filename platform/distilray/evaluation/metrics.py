"""Fill-mask metrics from logits: ranks, hit@k, mean reciprocal rank, pseudo-perplexity."""

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

HITS = (1, 5, 10)


def true_token_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """(masks,) rank of the true token, 1 for the most probable; ties count against it.

    Args:
        logits: (masks, vocabulary).
        labels: (masks,) the true ids.
    """
    true = logits.gather(1, labels[:, None])
    return (logits >= true).sum(dim=1)


def true_token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(masks,) negative log probability of the true token, in nats."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def fill_mask_scores(ranks: Tensor, losses: Tensor) -> Mapping[str, float]:
    """The scores of a model over masks.

    Args:
        ranks: (masks,) from `true_token_ranks`.
        losses: (masks,) from `true_token_losses`; pseudo-perplexity is the exponential of their mean (Salazar et al.
            2020, here over the masked tokens only).
    """
    hits = {f"hit@{k}": (ranks <= k).double().mean().item() for k in HITS}
    return {
        **hits,
        "mrr": (1.0 / ranks.double()).mean().item(),
        "pseudo_perplexity": math.exp(min(losses.double().mean().item(), 700.0)),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of equal entries of two integer tensors."""
    return (first == second).double().mean().item()
