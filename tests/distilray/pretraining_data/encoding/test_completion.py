import numpy as np
import pyarrow as pa
import pytest

from distilray.config.pretraining_data import MaskingConfig
from distilray.errors import InputError
from distilray.pretraining_data.encoding.completion import Completion
from distilray.pretraining_data.encoding.drafts import DRAFTS
from distilray.pretraining_data.encoding.example_statistics import example_statistics
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.schemas import EXAMPLES
from tests.distilray.tiny_line import encode_config

ROOM = 29


@pytest.fixture(scope="module")
def vocabulary(tokenizer_dir):
    return vocabulary_of(read_tokenizer(tokenizer_dir))


def drafts_of(documents, vocabulary, *, random_share=0.5, seed=0):
    """Drafts of some documents in the order given; text of ordinary ids."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, document in enumerate(documents):
        is_random = bool(rng.random() < random_share)
        a_from, gap = rng.integers(0, 4, size=2).tolist()
        a_tokens = int(rng.integers(1, ROOM - 4))
        b_tokens = 0 if is_random else int(rng.integers(1, ROOM - a_tokens + 1))
        tokens = a_tokens if is_random else a_from + a_tokens + gap + b_tokens
        rows.append(
            {
                "example_id": document << 32 | seed << 24 | number,
                "shuffle_key": number,
                "text": rng.choice(vocabulary.drawable, size=tokens).tolist(),
                "a_from": 0 if is_random else a_from,
                "a_tokens": a_tokens,
                "b_from": tokens - b_tokens,
                "b_tokens": b_tokens,
                "room": ROOM,
                "is_random_next": is_random,
                "trimmed": number,
            }
        )
    return pa.Table.from_pylist(rows, schema=DRAFTS)


def completed(drafts, vocabulary, *, masker=None, **changes):
    return Completion(encode_config(**changes), vocabulary, masker).examples(drafts)


@pytest.fixture
def drafts(vocabulary):
    return drafts_of(np.random.default_rng(3).integers(0, 12, size=400).tolist(), vocabulary)


def test_rows_are_framed_and_in_the_order_of_the_drafts(drafts, vocabulary):
    table = completed(drafts, vocabulary)
    assert table.schema.equals(EXAMPLES, check_metadata=True)
    assert table["example_id"].equals(drafts["example_id"])
    assert table["trimmed"].equals(drafts["trimmed"])
    for row, draft in zip(table.to_pylist(), drafts.to_pylist(), strict=True):
        ids, second = row["input_ids"], row["segment_b_start"]
        assert second == draft["a_tokens"] + 2
        assert [ids[0], ids[second - 1], ids[-1]] == [vocabulary.cls, vocabulary.sep, vocabulary.sep]
        assert ids[1 : second - 1] == draft["text"][draft["a_from"] :][: draft["a_tokens"]]
        assert len(ids) <= ROOM + 3
        if not row["is_random_next"]:
            assert ids[second:-1] == draft["text"][draft["b_from"] :][: draft["b_tokens"]]


def test_a_missing_b_is_the_beginning_of_a_text_of_another_document(drafts, vocabulary):
    whole = {}
    for draft in drafts.to_pylist():
        if not draft["is_random_next"]:
            whole.setdefault(draft["example_id"] >> 32, []).append(draft["text"])
    rows = [row for row in completed(drafts, vocabulary).to_pylist() if row["is_random_next"]]
    assert len(rows) > 100
    for row in rows:
        room = ROOM - (row["segment_b_start"] - 2)
        assert row["document_b"] != row["document_a"]
        assert row["input_ids"][row["segment_b_start"] : -1] in [text[:room] for text in whole[row["document_b"]]]


def test_every_document_gives_segments_in_proportion_to_its_drafts(vocabulary):
    documents = np.random.default_rng(0).permutation([0] * 300 + [1] * 600 + [2] * 100).tolist()
    both = [drafts_of(documents, vocabulary, random_share=share, seed=int(share)) for share in (1.0, 0.0)]
    rows = completed(pa.concat_tables(both).combine_chunks(), vocabulary).to_pylist()
    given = np.bincount([row["document_b"] for row in rows if row["document_a"] == 0 and row["is_random_next"]])
    assert given[0] == 0
    assert abs(given[1] / given.sum() - 6 / 7) < 4 * np.sqrt(6 / 49 / given.sum())


def test_a_consecutive_pair_keeps_its_document(drafts, vocabulary):
    rows = [row for row in completed(drafts, vocabulary).to_pylist() if not row["is_random_next"]]
    assert {row["document_a"] == row["document_b"] for row in rows} == {True}


@pytest.mark.parametrize("documents", [[0, 1], [0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 2]])
def test_one_other_document_is_enough_even_without_a_consecutive_pair(vocabulary, documents):
    rows = completed(drafts_of(documents, vocabulary, random_share=1.0), vocabulary).to_pylist()
    assert all(row["document_a"] != row["document_b"] for row in rows)
    assert all(len(row["input_ids"]) > row["segment_b_start"] + 1 for row in rows)


def test_one_document_alone_is_refused(vocabulary):
    with pytest.raises(InputError, match="only one document"):
        completed(drafts_of([3] * 20, vocabulary), vocabulary)


def test_one_document_alone_will_do_when_nothing_is_random(vocabulary):
    assert len(completed(drafts_of([3] * 20, vocabulary, random_share=0.0), vocabulary)) == 20


def test_without_a_segment_b_an_example_is_cls_text_sep(vocabulary):
    texts = [vocabulary.drawable[:5].tolist(), vocabulary.drawable[3:10].tolist()]
    values = {"shuffle_key": 1, "a_from": 0, "b_tokens": 0, "room": ROOM, "is_random_next": False, "trimmed": 0}
    drafts = [
        {"example_id": number, "text": text, "a_tokens": len(text), "b_from": len(text), **values}
        for number, text in enumerate(texts)
    ]
    rows = completed(pa.Table.from_pylist(drafts, schema=DRAFTS), vocabulary).to_pylist()
    assert [row["input_ids"] for row in rows] == [[vocabulary.cls, *text, vocabulary.sep] for text in texts]
    assert [row["segment_b_start"] for row in rows] == [7, 9]


def test_without_a_masker_the_text_stays_as_it_is(drafts, vocabulary):
    table = completed(drafts, vocabulary)
    assert {len(row) for name in ("mask_positions", "mask_labels") for row in table[name]} == {0}


def test_masks_are_those_of_the_masker_and_hide_the_text_only(drafts, vocabulary):
    plain = completed(drafts, vocabulary)
    masked = completed(drafts, vocabulary, masker=Masker(vocabulary, MaskingConfig(), 5))
    hidden = 0
    for row, text in zip(masked.to_pylist(), plain.to_pylist(), strict=True):
        ids = row["input_ids"]
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
            hidden += ids[position] == vocabulary.mask
            ids[position] = label
        assert ids == text["input_ids"]
    assert hidden > 400


def test_the_statistics_are_what_counting_by_hand_gives(drafts, vocabulary):
    table = completed(drafts, vocabulary, masker=Masker(vocabulary, MaskingConfig(), 5))
    rows = table.to_pylist()
    seen = [
        (row["input_ids"][position], label)
        for row in rows
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True)
    ]
    assert example_statistics(table, vocabulary) == {
        "examples": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "random_next": sum(row["is_random_next"] for row in rows),
        "predicted": len(seen),
        "predicted_as_mask": sum(shown == vocabulary.mask for shown, _ in seen),
        "predicted_as_kept": sum(shown == label for shown, label in seen),
        "predicted_as_random": sum(shown not in (vocabulary.mask, label) for shown, label in seen),
        "length_0000": sum(len(row["input_ids"]) < 32 for row in rows),
        "length_0032": sum(len(row["input_ids"]) == 32 for row in rows),
    }


def test_the_statistics_of_parts_add_up_to_those_of_the_whole(drafts, vocabulary):
    table = completed(drafts, vocabulary, masker=Masker(vocabulary, MaskingConfig(), 5))
    parts = [example_statistics(table.slice(start, 9), vocabulary) for start in range(0, len(table), 9)]
    whole = example_statistics(table, vocabulary)
    assert {name: sum(part[name] for part in parts) for name in whole} == whole
