"""Fill-mask metrics from logits: ranks, hit@k, mean reciprocal rank, pseudo-perplexity."""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distilray.statistics import Ratio, ScoreDefinitions

HITS = (1, 5, 10)
# Pseudo-perplexity is the exponential of the mean loss (Salazar et al. 2020, here over the masked tokens only).
FILL_MASK_SCORES = ScoreDefinitions(
    ratios={
        **{f"hit@{k}": Ratio(f"hit@{k}", "answers", is_share=True) for k in HITS},
        "mrr": Ratio("reciprocal", "answers"),
        "mean_rank": Ratio("rank", "answers"),
        "pseudo_perplexity": Ratio("loss", "pieces", exponential=True),
    },
    medians={"median_rank": "rank"},
)


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


def answer_columns(
    ranks: NDArray[np.integer], losses: NDArray[np.floating], pieces: NDArray[np.integer]
) -> dict[str, NDArray[np.generic]]:
    """What `FILL_MASK_SCORES` are computed of.

    Args:
        ranks: (answers,) of the worst piece of each, from `true_token_ranks`: an answer of several word pieces is a hit
            when every piece is among the best k at its place.
        losses: (answers,) sums over the pieces of `true_token_losses`.
        pieces: (answers,) word pieces of each.
    """
    hits = {f"hit@{k}": ranks <= k for k in HITS}
    ones = np.ones(len(ranks))
    return {"answers": ones, **hits, "reciprocal": 1.0 / ranks, "rank": ranks, "loss": losses, "pieces": pieces}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]
