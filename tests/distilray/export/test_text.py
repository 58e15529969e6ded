import numpy as np
import pytest

from distilray.config.export import ExportModelConfig
from distilray.errors import InputError
from distilray.export.text import mask_lines, masked_text
from distilray.formats.lines import first_lines
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.tiny.shards import open_shards

LINES = ["paris is the capital of france.", "a cat", "the old city and the new river in rome is good and bad", "?"]


@pytest.fixture(scope="module")
def tokenizer_json(tokenizer_dir):
    return read_tokenizer(tokenizer_dir)


@pytest.fixture(scope="module")
def vocabulary(tokenizer_json):
    return vocabulary_of(tokenizer_json)


@pytest.fixture
def masked(tokenizer_json):
    def masked(lines=LINES, **changes):
        return mask_lines(lines, tokenizer_json, **{"max_length": 48, "batch_size": 2, "seed": 3, **changes})

    return masked


def rows_of(text, *, masked):
    """Return the rows without padding, with the masks or with the original ids."""
    rows = []
    for batch in text.batches:
        ids = batch.input_ids.copy()
        if not masked:
            ids.reshape(-1)[batch.mask_index] = batch.mask_labels
        rows += [tuple(row[real.astype(bool)]) for row, real in zip(ids, batch.attention_mask, strict=True)]
    return sorted(rows)


def test_the_lines_are_complete_after_replacing_the_masks_by_the_labels(masked, tokenizer_json, vocabulary):
    text, tokenizer = masked(), build_tokenizer(tokenizer_json)
    ids = [tokenizer.encode(line, add_special_tokens=False).ids for line in LINES]
    assert rows_of(text, masked=False) == sorted((vocabulary.cls, *line, vocabulary.sep) for line in ids)
    assert (text.examples, text.dropped) == (4, 0)


def test_the_mask_token_is_at_the_masks_only_and_replaces_ordinary_tokens(masked, vocabulary):
    for batch in masked().batches:
        assert np.flatnonzero(batch.input_ids == vocabulary.mask).tolist() == sorted(batch.mask_index.tolist())
        assert not set(batch.mask_labels.tolist()) & set(vocabulary.special)


def test_every_line_has_a_mask_and_long_lines_fifteen_percent(masked):
    text = masked(["the " * 40, "a"], batch_size=1)
    assert [len(batch.mask_index) for batch in text.batches] == [6, 1]
    assert text.masks == 7


def test_a_line_without_an_ordinary_token_is_dropped_and_counted(masked):
    text = masked(["[SEP]", "a cat", "日"])  # the last is [UNK]
    assert (text.examples, text.dropped) == (1, 2)


def test_lines_longer_than_the_model_reads_are_truncated(masked, vocabulary):
    (row,) = rows_of(masked(["the " * 100], max_length=10), masked=False)
    assert (len(row), row[-1]) == (10, vocabulary.sep)


def test_masks_depend_on_the_seed_and_not_on_the_batch_size(masked):
    rows = rows_of(masked(), masked=True)
    assert rows == rows_of(masked(batch_size=1), masked=True) == rows_of(masked(batch_size=4), masked=True)
    assert rows != rows_of(masked(seed=4), masked=True)


def config(**values):
    return ExportModelConfig(run_dir="r", model_dir="m", **values)


def test_held_out_shards_have_a_mask_at_every_predicted_position(shards_dir, tokenizer_json, vocabulary):
    text = masked_text(config(shards_dir=shards_dir, max_examples=5), tokenizer_json, 32)
    assert text.examples == 5
    expected = open_shards(shards_dir, "heldout").mask_counts(np.arange(5), np.zeros(5, dtype=np.int64)).sum()
    assert text.masks == expected
    assert all((batch.input_ids.reshape(-1)[batch.mask_index] == vocabulary.mask).all() for batch in text.batches)


def test_a_recipe_without_text_has_none(tokenizer_json):
    assert masked_text(config(variants=["onnx"]), tokenizer_json, 32) is None


def test_blank_lines_are_skipped(tmp_path, tokenizer_json):
    path = str(tmp_path / "text")
    (tmp_path / "text").write_text("\n one \n\n\ttwo\nthree\n", encoding="utf-8")
    assert first_lines(path, 2) == ["one", "two"]
    assert masked_text(config(text_path=path, max_examples=2), tokenizer_json, 32).examples == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such text file"),
        (b"a\xff", "not UTF-8 text"),
        (b"\n \n", "contains no text"),
        (b"[SEP]\n", "text: nothing to mask"),
    ],
)
def test_an_unusable_text_is_rejected(tmp_path, tokenizer_json, content, message):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(InputError, match=message):
        masked_text(config(text_path=str(tmp_path / "text")), tokenizer_json, 32)
