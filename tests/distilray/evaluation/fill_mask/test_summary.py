import numpy as np
import pytest

from distilray.config.evaluation import BootstrapConfig
from distilray.evaluation.fill_mask.summary import summarize_scores
from distilray.evaluation.fill_mask_metrics import answer_columns


def test_a_share_without_hits_has_the_interval_of_wilson_over_the_texts():
    texts = np.arange(40) // 2
    columns = answer_columns(np.full(40, 7), np.ones(40), np.ones(40, np.int64))
    scores, intervals = summarize_scores(texts, {"student": columns}, BootstrapConfig(resamples=100), seed=1)
    assert (scores["student"]["hit@1"], scores["student"]["hit@10"]) == (0.0, 1.0)
    # None, and all, of 20 texts; Newcombe (1998), table I.
    assert intervals["student"]["hit@1"] == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert intervals["student"]["hit@10"] == pytest.approx((0.8389, 1.0), abs=5e-5)
    assert intervals["student"]["mean_rank"] == (7.0, 7.0)
