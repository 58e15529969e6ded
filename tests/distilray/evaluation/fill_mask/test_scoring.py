import math

import numpy as np
import pytest
import torch

from distilray.config.evaluation import FillMaskDataConfig
from distilray.evaluation.fill_mask.examples import MaskedExample, parse_example
from distilray.evaluation.fill_mask.scoring import measure_latencies, score_windows, single_batches
from distilray.evaluation.fill_mask.windows import encode_examples
from distilray.models.heads import decoder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.tiny.fill_mask import TableModel, rows_of


@pytest.fixture(scope="module", params=["teacher", "student"])
def model_dir(request, work):
    return str(work / request.param)


@pytest.fixture(scope="module")
def model(model_dir):
    return load_masked_lm(model_dir)


@pytest.fixture(scope="module")
def tokenizer_json(work):
    return read_tokenizer(str(work / "student"))


@pytest.fixture(scope="module")
def windows_of(tokenizer_json):
    """Encode examples, or rows of a file."""

    def windows_of(*examples, max_length=48):
        data = FillMaskDataConfig(path="unused")
        parsed = [
            parse_example(number, each["texts"], each["masks"], data) if isinstance(each, dict) else each
            for number, each in enumerate(examples, 1)
        ]
        windows, _, bad = encode_examples(parsed, tokenizer_json, max_length=max_length)
        assert not bad
        return windows

    return windows_of


def score(model, windows, *, max_rows=8, max_tokens=512, left_to_right=True):
    limits = {"max_rows": max_rows, "max_tokens": max_tokens}
    return score_windows(model, windows, pad_id=0, precision="fp32", left_to_right=left_to_right, **limits)


def values(scores):
    """Ranks and losses of answers, joint and from left to right."""
    names = ("ranks", "losses", "left_to_right_ranks", "left_to_right_losses")
    return [getattr(scores, name).tolist() for name in names]


# Probabilities of each token after another one.
AFTER = {
    "the": {"cat": 1 / 2, "sun": 1 / 4, "dog": 1 / 8, "moon": 1 / 8},
    "[MASK]": {"##s": 1 / 8, "##ed": 1 / 2, "cat": 1 / 4, "dog": 1 / 8},
    "cat": {"##s": 3 / 4, "##ed": 1 / 4},
}


@pytest.fixture(scope="module")
def table(tokenizer_json):
    """A model whose answers can be computed by hand."""
    ids = build_tokenizer(tokenizer_json).get_vocab()
    logits = torch.full((vocabulary_of(tokenizer_json).size,) * 2, -1000.0)
    for before, following in AFTER.items():
        for token, probability in following.items():
            logits[ids[before], ids[token]] = math.log(probability)
    return TableModel(logits)


@pytest.mark.parametrize(
    ("answer", "joint", "left_to_right", "best"),
    [
        ("cat", (1, 2), (1, 2), ["cat"]),
        ("sun", (2, 4), (2, 4), ["cat"]),
        ("moon", (4, 8), (4, 8), ["cat"]),
        ("dog", (4, 8), (4, 8), ["cat"]),  # a tie counts against the answer
        # Joint: cat after "the" (1/2, rank 1), ##s after a mask (1/8; ##ed and cat are before it, dog ties: rank 4).
        # Left to right: ##s after cat (3/4, rank 1).
        ("cats", (4, 16), (1, 2 / (3 / 4)), ["cat", "##ed"]),
    ],
)
def test_the_scores_of_an_answer_are_those_of_the_table(
    table, windows_of, tokenizer_json, answer, joint, left_to_right, best
):
    scores = score(table, windows_of(MaskedExample(1, ("the ", ""), (answer,))))
    expected = [[value] for rank, odds in (joint, left_to_right) for value in (rank, pytest.approx(math.log(odds)))]
    assert values(scores) == expected
    assert [build_tokenizer(tokenizer_json).id_to_token(token) for token in scores.best] == best


def test_left_to_right_shows_the_true_pieces_before_and_masks_after(table, windows_of, tokenizer_json):
    windows = windows_of(MaskedExample(1, ("the ", " in ", ""), ("cats cats", "sun")))
    table.seen.clear()
    score(table, windows, max_rows=1)
    tokenizer = build_tokenizer(tokenizer_json)
    pieces = ["cat", "##s", "cat"]
    answers = [" ".join([*pieces[:count], *["[MASK]"] * (4 - count)]) for count in range(4)]
    seen = [" ".join(tokenizer.id_to_token(token) for token in ids) for ids in table.seen]
    assert sorted(seen) == sorted(f"[CLS] the {answer} in [MASK] [SEP]" for answer in answers)
    table.seen.clear()
    scores = score(table, windows, left_to_right=False)
    assert len(table.seen) == 1
    assert (scores.ranks == scores.left_to_right_ranks).all()


def reference_scores(model, tokenizer_json, windows):
    """Compute the scores with one full forward pass of transformers per prediction."""
    mask, scores = vocabulary_of(tokenizer_json).mask, []
    for answer, (begin, end) in enumerate(zip(windows.bounds, windows.bounds[1:], strict=False)):
        window, start, true = windows.window[answer], windows.start[answer], windows.labels[begin:end]
        row = []
        for left_to_right in (False, True):
            ranks, loss = [], 0.0
            for piece, label in enumerate(true):
                ids = windows.ids[windows.offsets[window] : windows.offsets[window + 1]].copy()
                if left_to_right:
                    ids[start : start + piece] = true[:piece]
                assert ids[start + piece] == mask
                with torch.no_grad():
                    logits = model(torch.from_numpy(ids)[None]).logits[0, start + piece].double()
                ranks.append(int((logits >= logits[label]).sum()))
                loss += float(logits.logsumexp(0) - logits[label])
            row += [max(ranks), loss]
        scores.append(row)
    return list(zip(*scores, strict=True))


@pytest.fixture(scope="module")
def long_windows(windows_of):
    windows = windows_of(*rows_of(25, words=50), max_length=32)  # some texts are longer than a window
    assert len(windows.lengths) > len(np.unique(windows.row))
    assert (windows.pieces > 1).sum() > 10
    return windows


@pytest.fixture(scope="module")
def expected(model, tokenizer_json, long_windows):
    return reference_scores(model, tokenizer_json, long_windows)


@pytest.mark.parametrize(("max_rows", "max_tokens"), [(1, 1), (3, 100), (100, 10_000)])
def test_scores_equal_those_of_one_full_forward_pass_per_prediction(
    model, long_windows, expected, max_rows, max_tokens
):
    scores = values(score(model, long_windows, max_rows=max_rows, max_tokens=max_tokens))
    assert [list(each) for each in expected] == [pytest.approx(each, abs=1e-4) for each in scores]


def test_only_predicted_positions_go_through_the_vocabulary_head(model, windows_of):
    windows, rows = windows_of(*rows_of(30)), []
    hook = decoder(model).register_forward_hook(lambda module, inputs, out: rows.append(out.shape[:-1].numel()))
    try:
        score(model, windows)
    finally:
        hook.remove()
    later_pieces = int((windows.pieces - 1).sum())
    assert later_pieces > 20
    assert sum(rows) == len(windows.labels) + later_pieces


def test_no_window_gives_no_score(model, windows_of):
    assert values(score(model, windows_of())) == [[], [], [], []]


def test_latencies_are_measured_on_the_first_windows_without_padding(model, windows_of):
    windows = windows_of(*rows_of(6))
    singles = list(single_batches(windows, 4))
    assert [batch.input_ids.shape[1] for batch in singles] == windows.lengths[:4].tolist()
    assert all(batch.attention_mask.all() for batch in singles)
    times = measure_latencies(model, singles)
    assert len(times) == 4
    assert min(times) > 0
