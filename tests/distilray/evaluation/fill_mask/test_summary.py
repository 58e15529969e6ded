import numpy as np
import pyarrow as pa
import pytest

from distilray.config.evaluation import BootstrapConfig
from distilray.evaluation.fill_mask.summary import columns_from_answers, summarize_scores
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


def test_texts_are_numbered_over_all_files():
    names = ("rank", "loss", "left_to_right_rank", "left_to_right_loss")
    values = {f"student_{name}": [1, 2, 1, 3] for name in names}
    answers = pa.table({"file": ["a", "a", "b", "b"], "row": [1, 1, 1, 2], "pieces": [1, 2, 1, 1], **values})
    texts, columns = columns_from_answers(answers, ["student"], left_to_right=True)
    assert texts.tolist() == [1, 1, 2, 3]
    assert columns["student"]["several"].tolist() == [False, True, False, False]
    assert "several" not in columns_from_answers(answers, ["student"], left_to_right=False)[1]["student"]


def test_the_difference_of_equal_models_is_zero_in_every_resample():
    ranks = np.arange(40) % 15
    columns = answer_columns(ranks, np.ones(40), np.ones(40, np.int64))
    models = {"teacher": columns, "student": columns}
    _, intervals = summarize_scores(np.arange(40), models, BootstrapConfig(resamples=50), seed=1)
    assert intervals["difference"]["hit@1"] == (0.0, 0.0)
    assert intervals["student"]["hit@1"][0] < intervals["student"]["hit@1"][1]
