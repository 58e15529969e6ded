import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilray.config.evaluation import FillMaskDataConfig
from distilray.evaluation.fill_mask.examples import MaskedExample, parse_example
from distilray.evaluation.fill_mask.scoring import measure_latencies, score_windows, single_batches
from distilray.evaluation.fill_mask.windows import encode_examples
from distilray.models.heads import decoder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.tiny.fill_mask import TableModel, rows_of
from tests.tiny.models import write_tiny_model


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model_dir(request, tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(model_dir):
    return load_masked_lm(model_dir)


@pytest.fixture(scope="module")
def tokenizer_json(model_dir):
    return read_tokenizer(model_dir)


def examples_of(rows):
    data = FillMaskDataConfig(path="unused")
    return [parse_example(number, row["texts"], row["masks"], data) for number, row in enumerate(rows, 1)]


def windows_of(tokenizer_json, examples, max_length=48):
    windows, _, bad = encode_examples(examples, tokenizer_json, max_length=max_length)
    assert not bad
    return windows


def score(model, windows, *, max_rows=8, max_tokens=512, left_to_right=True):
    return score_windows(
        model,
        windows,
        pad_id=0,
        precision="fp32",
        max_rows=max_rows,
        max_tokens=max_tokens,
        left_to_right=left_to_right,
    )


# A vocabulary of few words, and what comes after what, in probabilities:
#   behind "the":  cat 1/2, sun 1/4, dog 1/8, moon 1/8
#   behind [MASK]: ##s 1/8, ##ed 1/2, cat 1/4, dog 1/8
#   behind cat:    ##s 3/4, ##ed 1/4
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


def told(found):
    return [
        found.ranks.tolist(),
        found.losses.tolist(),
        found.left_to_right_ranks.tolist(),
        found.left_to_right_losses.tolist(),
    ]


@pytest.mark.parametrize(
    ("answer", "rank", "loss"),
    [("cat", 1, math.log(2)), ("sun", 2, math.log(4)), ("moon", 4, math.log(8)), ("dog", 4, math.log(8))],
)
def test_the_rank_and_loss_of_one_piece_are_those_of_the_table(table, tokenizer_json, answer, rank, loss):
    found = score(table, windows_of(tokenizer_json, [MaskedExample(1, ("the ", ""), (answer,))]))
    assert told(found) == [[rank], [pytest.approx(loss)]] * 2


def test_joint_and_left_to_right_scores_of_an_answer_of_two_pieces_are_those_of_the_table(table, tokenizer_json):
    # Joint: cat behind "the" (1/2, rank 1), ##s behind a mask (1/8; ##ed and cat are before it and dog ties: rank 4).
    # Left to right: ##s behind cat: 3/4, rank 1.
    found = score(table, windows_of(tokenizer_json, [MaskedExample(1, ("the ", ""), ("cats",))]))
    assert told(found) == [[4], [pytest.approx(math.log(16))], [1], [pytest.approx(math.log(2) - math.log(3 / 4))]]
    tokenizer = build_tokenizer(tokenizer_json)
    assert [tokenizer.id_to_token(token) for token in found.best] == ["cat", "##ed"]


def test_left_to_right_shows_the_true_pieces_before_and_masks_behind(table, tokenizer_json):
    table.seen.clear()
    score(table, windows_of(tokenizer_json, [MaskedExample(1, ("the ", " in ", ""), ("cats cats", "sun"))]), max_rows=1)
    tokenizer = build_tokenizer(tokenizer_json)
    seen = sorted(" ".join(tokenizer.id_to_token(token) for token in ids) for ids in table.seen)
    assert seen == sorted(
        f"[CLS] the {shown} in [MASK] [SEP]"
        for shown in (
            "[MASK] [MASK] [MASK] [MASK]",
            "cat [MASK] [MASK] [MASK]",
            "cat ##s [MASK] [MASK]",
            "cat ##s cat [MASK]",
        )
    )


def test_without_left_to_right_there_is_one_pass_for_each_window(table, tokenizer_json):
    windows = windows_of(tokenizer_json, [MaskedExample(1, ("the ", ""), ("cats cats",))])
    table.seen.clear()
    found = score(table, windows, left_to_right=False)
    assert len(table.seen) == 1
    assert (found.ranks == found.left_to_right_ranks).all()


def plain(model, tokenizer_json, windows):
    """Compute the scores with one full forward pass of transformers per prediction."""
    mask = vocabulary_of(tokenizer_json).mask
    joint, left = [], []
    for answer, (begin, end) in enumerate(zip(windows.bounds, windows.bounds[1:], strict=False)):
        window = windows.window[answer]
        ids = windows.ids[windows.offsets[window] : windows.offsets[window + 1]].copy()
        true, start = windows.labels[begin:end], windows.start[answer]
        for shown in ("nothing", "before"):
            ranks, loss = [], 0.0
            for piece, label in enumerate(true):
                given = ids.copy()
                if shown == "before":
                    given[start : start + piece] = true[:piece]
                assert given[start + piece] == mask
                with torch.no_grad():
                    own = model(torch.from_numpy(given)[None]).logits[0, start + piece].double().numpy()
                ranks.append(int((own >= own[label]).sum()))
                loss += float(np.log(np.exp(own - own.max()).sum()) + own.max() - own[label])
            (joint if shown == "nothing" else left).append((max(ranks), loss))
    return joint, left


def test_scores_are_those_of_one_full_forward_pass_for_each_prediction(model, tokenizer_json):
    examples = examples_of(rows_of(25, words=50))  # some of them longer than a window
    windows = windows_of(tokenizer_json, examples, max_length=32)
    found = score(model, windows)
    joint, left = plain(model, tokenizer_json, windows)
    assert len({len(example.fragments) for example in examples}) > 2
    assert (windows.pieces > 1).sum() > 10
    assert found.ranks.tolist() == [rank for rank, _ in joint]
    assert found.losses == pytest.approx([loss for _, loss in joint], abs=1e-4)
    assert found.left_to_right_ranks.tolist() == [rank for rank, _ in left]
    assert found.left_to_right_losses == pytest.approx([loss for _, loss in left], abs=1e-4)


def test_fifty_ranks_and_probabilities_are_those_of_the_fill_mask_pipeline(model_dir, model, tokenizer_json):
    rows = [row for row in rows_of(400, seed=9, most_masks=1) if row["masks"][0] in row_words(tokenizer_json)][:50]
    found = score(model, windows_of(tokenizer_json, examples_of(rows)))
    peer = pipeline(
        "fill-mask",
        model=AutoModelForMaskedLM.from_pretrained(model_dir),
        tokenizer=AutoTokenizer.from_pretrained(model_dir),
    )
    for number, row in enumerate(rows):
        candidates = peer(row["texts"].replace("<mask>", "[MASK]"), top_k=model.config.vocab_size)
        order = [candidate["token_str"] for candidate in candidates]
        assert order.index(row["masks"][0]) + 1 == found.ranks[number]
        assert math.exp(-found.losses[number]) == pytest.approx(
            candidates[order.index(row["masks"][0])]["score"], abs=1e-5
        )
        assert candidates[0]["token"] == found.best[number]
    assert number == 49


def row_words(tokenizer_json):
    return set(build_tokenizer(tokenizer_json).get_vocab())


@pytest.mark.parametrize(("max_rows", "max_tokens"), [(1, 1), (3, 100), (100, 10_000)])
def test_the_batches_do_not_change_the_scores(model, tokenizer_json, max_rows, max_tokens):
    windows = windows_of(tokenizer_json, examples_of(rows_of(20)))
    one, other = score(model, windows), score(model, windows, max_rows=max_rows, max_tokens=max_tokens)
    assert one.ranks.tolist() == other.ranks.tolist()
    assert one.left_to_right_losses == pytest.approx(other.left_to_right_losses, abs=1e-4)
    assert one.best.tolist() == other.best.tolist()


def test_only_what_is_asked_goes_through_the_vocabulary_head(model, tokenizer_json):
    windows = windows_of(tokenizer_json, examples_of(rows_of(30)))
    rows = []
    hook = decoder(model).register_forward_hook(lambda module, given, out: rows.append(out.shape[:-1].numel()))
    try:
        score(model, windows)
    finally:
        hook.remove()
    further = int((windows.pieces - 1).sum())
    assert further > 20
    assert sum(rows) == len(windows.labels) + further


def test_no_window_gives_no_score(model, tokenizer_json):
    found = score(model, windows_of(tokenizer_json, []))
    assert told(found) == [[], [], [], []]


def test_single_batches_are_the_first_windows_without_padding(model, tokenizer_json):
    windows = windows_of(tokenizer_json, examples_of(rows_of(6)))
    singles = list(single_batches(windows, 4))
    assert [batch.input_ids.shape[1] for batch in singles] == windows.lengths[:4].tolist()
    assert all(batch.attention_mask.all() for batch in singles)
    times = measure_latencies(model, singles)
    assert len(times) == 4
    assert min(times) > 0
