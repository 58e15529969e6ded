from pathlib import Path

import numpy as np
import pytest

from distilray.config.export import ExportModelConfig
from distilray.errors import InputError
from distilray.export.text import mask_lines, masked_text
from distilray.formats.lines import first_lines
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.tiny.shards import open_shards

LINES = ["paris is the capital of france.", "a cat", "the old city and the new river in rome is good and bad", "?"]


@pytest.fixture(scope="session")
def tokenizer_json(tokenizer_dir):
    return read_tokenizer(tokenizer_dir)


def masked(lines, tokenizer_json, **changes):
    return mask_lines(lines, tokenizer_json, **{"max_length": 48, "batch_size": 2, "seed": 3, **changes})


def unmasked(text):
    """Return the rows with the original ids instead of the masks, without padding."""
    rows = []
    for batch in text.batches:
        ids = batch.input_ids.copy()
        ids.reshape(-1)[batch.mask_index] = batch.mask_labels
        rows += [row[real.astype(bool)].tolist() for row, real in zip(ids, batch.attention_mask, strict=True)]
    return rows


def test_with_the_labels_put_back_the_lines_are_whole(tokenizer_json):
    text = masked(LINES, tokenizer_json)
    tokenizer, special = build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json)
    expected = [[special.cls, *tokenizer.encode(line, add_special_tokens=False).ids, special.sep] for line in LINES]
    assert sorted(unmasked(text)) == sorted(expected)
    assert (text.examples, text.dropped) == (4, 0)


def test_masks_show_the_mask_token_and_nothing_else_does(tokenizer_json):
    vocabulary = vocabulary_of(tokenizer_json)
    for batch in masked(LINES, tokenizer_json).batches:
        places = np.flatnonzero(batch.input_ids == vocabulary.mask)
        assert places.tolist() == sorted(batch.mask_index.tolist())
        assert not set(batch.mask_labels.tolist()) & set(vocabulary.special)


def test_every_line_has_a_mask_and_long_ones_about_a_seventh(tokenizer_json):
    text = masked(["the " * 40, "a"], tokenizer_json, batch_size=1)
    assert [len(batch.mask_index) for batch in text.batches] == [6, 1]


def test_a_line_without_an_ordinary_token_is_dropped_and_counted(tokenizer_json):
    text = masked(["[SEP]", "a cat", "日"], tokenizer_json)  # the last is [UNK]
    assert (text.examples, text.dropped) == (1, 2)


def test_lines_longer_than_the_model_reads_are_cut(tokenizer_json):
    rows = unmasked(masked(["the " * 100], tokenizer_json, max_length=10))
    assert len(rows[0]) == 10
    assert rows[0][-1] == vocabulary_of(tokenizer_json).sep


def test_masks_depend_on_the_seed_and_not_on_the_batch_size(tokenizer_json):
    def places(**changes):
        found = set()
        for batch in masked(LINES, tokenizer_json, **changes).batches:
            ids = [
                tuple(row[real.astype(bool)]) for row, real in zip(batch.input_ids, batch.attention_mask, strict=True)
            ]
            found |= set(ids)
        return found

    assert places(batch_size=1) == places(batch_size=4)
    assert places(seed=3) != places(seed=4)


def test_held_out_shards_show_a_mask_at_every_predicted_position(shards_dir, tokenizer_json):
    config = ExportModelConfig(run_dir="r", model_dir="m", shards_dir=shards_dir, max_examples=5)
    text = masked_text(config, tokenizer_json, 32)
    shards = open_shards(shards_dir, "heldout")
    assert text.examples == 5
    assert text.masks == shards.mask_counts(np.arange(5), np.zeros(5, dtype=np.int64)).sum()
    mask = vocabulary_of(tokenizer_json).mask
    assert all((batch.input_ids.reshape(-1)[batch.mask_index] == mask).all() for batch in text.batches)


def test_blank_lines_are_no_lines(tmp_path: Path):
    (tmp_path / "text").write_text("\n one \n\n\ttwo\nthree\n", encoding="utf-8")
    assert first_lines(str(tmp_path / "text"), 2) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such text file"), (b"a\xff", "not UTF-8 text"), (b"\n \n", "contains no text")]
)
def test_a_text_that_cannot_be_read_is_one_line(tmp_path: Path, content, said):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(InputError, match=said):
        first_lines(str(tmp_path / "text"), 5)


def test_a_text_without_words_is_refused(tmp_path: Path, tokenizer_json):
    (tmp_path / "text").write_text("[SEP]\n", encoding="utf-8")
    config = ExportModelConfig(run_dir="r", model_dir="m", text_path=str(tmp_path / "text"))
    with pytest.raises(InputError, match="nothing to mask"):
        masked_text(config, tokenizer_json, 32)
