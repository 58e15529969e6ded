"""Fill-mask metrics: rank of the true token, hit@k, mean reciprocal rank, pseudo-perplexity."""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distilray.statistics import Ratio, ScoreDefinitions

HITS = (1, 5, 10)
# Pseudo-perplexity: the exponential of the mean loss (Salazar et al. 2020), here over the masked tokens only.
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
    """Return the ranks of the true tokens, shape (masks,); 1 is the most probable, and ties count against the token.

    Args:
        logits: (masks, vocabulary).
        labels: (masks,) true token ids.
    """
    true = logits.gather(1, labels[:, None])
    return (logits >= true).sum(dim=1)


def true_token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log probabilities of the true tokens in nats, shape (masks,)."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def answer_columns(
    ranks: NDArray[np.integer], losses: NDArray[np.floating], pieces: NDArray[np.integer]
) -> dict[str, NDArray[np.generic]]:
    """Return the columns from which `FILL_MASK_SCORES` are computed.

    Args:
        ranks: (answers,) rank of the worst piece of each answer, so that an answer of several word pieces is a hit if
            each piece is among the top k at its position.
        losses: (answers,) loss of each answer, summed over its pieces.
        pieces: (answers,) number of word pieces.
    """
    hits = {f"hit@{k}": ranks <= k for k in HITS}
    ones = np.ones(len(ranks))
    return {"answers": ones, **hits, "reciprocal": 1.0 / ranks, "rank": ranks, "loss": losses, "pieces": pieces}


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by the nearest-rank method; `share` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]
