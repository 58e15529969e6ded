import pytest

from distilray.operations.plan.assumptions import PUBLISHED_HOURS, predict_published_run, published_training


def test_fp32_predicts_the_published_hours_and_half_precision_far_fewer():
    # Neither precision nor epochs are in the paper. What is uncertain: the share of the peak (0.23 to 0.32 in NVIDIA's
    # table for 1 to 8 GPUs), tokens per word (a tenth), the length of sequences (5%), an all-reduce per micro-batch.
    assert 0.5 < predict_published_run("fp32").ratio < 2.0
    half = predict_published_run("fp16")
    assert half.ratio < 0.3
    assert half.implied_mfu < 0.05


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_implied_share_of_the_peak_gives_the_hours_of_the_paper(precision):
    implied = predict_published_run(precision).implied_mfu
    # Stragglers, exchanges and updates come on top: a few percent.
    assert predict_published_run(precision, mfu=implied).predicted_hours == pytest.approx(PUBLISHED_HOURS, rel=0.1)


def test_the_original_takes_2_000_sequences_a_step_three_times_over_the_text():
    run = published_training("fp32")
    assert run.config.batch_size == 2000
    assert run.tokens == pytest.approx(3 * 3.3e9 * 1.31, rel=1e-3)
