import numpy as np
import pyarrow as pa
import pytest

from distilray.config.pretraining_data import MaskingConfig
from distilray.errors import InputError
from distilray.pretraining_data.examples import ExampleBuilder
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.shard_writer import example_statistics
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.pretraining_data.unpaired_examples import UNPAIRED_EXAMPLES
from distilray.schemas import EXAMPLES
from tests.tiny.shards import encode_config

ROOM = 29


@pytest.fixture(scope="module")
def vocabulary(tokenizer_dir):
    return vocabulary_of(read_tokenizer(tokenizer_dir))


def drafts_of(documents, vocabulary, *, random_share=0.5, seed=0, longest=16, alone=0.0):
    """Return unpaired examples of some documents, in order, with segments of ordinary ids.

    Args:
        longest: length of the longest A and B; more than half of `ROOM` has some of them trimmed.
        alone: share of unpaired without a B of their own.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number, document in enumerate(documents):
        a_tokens, b_tokens = rng.integers(1, longest + 1, size=2).tolist()
        is_single_sentence = bool(rng.random() < alone)
        rows.append(
            {
                "example_id": document << 32 | seed << 24 | number,
                "shuffle_key": number,
                "text": rng.choice(
                    vocabulary.replacement_ids, size=a_tokens + (0 if is_single_sentence else b_tokens)
                ).tolist(),
                "a_tokens": a_tokens,
                "room": ROOM,
                "is_random_next": is_single_sentence or bool(rng.random() < random_share),
            }
        )
    return pa.Table.from_pylist(rows, schema=UNPAIRED_EXAMPLES)


def planned_b(draft):
    return draft["text"][draft["a_tokens"] :]


def contains(whole, part):
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def completed(unpaired, vocabulary, *, masker=None, **changes):
    return ExampleBuilder(encode_config(**changes), vocabulary, masker).build(unpaired)


@pytest.fixture
def unpaired(vocabulary):
    return drafts_of(np.random.default_rng(3).integers(0, 12, size=400).tolist(), vocabulary)


def test_examples_have_special_tokens_and_the_order_of_the_unpaired_ones(unpaired, vocabulary):
    table = completed(unpaired, vocabulary)
    assert table.schema.equals(EXAMPLES, check_metadata=True)
    assert table["example_id"].equals(unpaired["example_id"])
    for row in table.to_pylist():
        ids, second = row["input_ids"], row["segment_b_start"]
        assert [ids[0], ids[second - 1], ids[-1]] == [vocabulary.cls, vocabulary.sep, vocabulary.sep]
        assert len(ids) <= ROOM + 3


def test_segments_are_parts_of_the_planned_ones(vocabulary):
    unpaired = drafts_of([*range(12)] * 30, vocabulary, longest=40, random_share=0.0)
    for row, draft in zip(completed(unpaired, vocabulary).to_pylist(), unpaired.to_pylist(), strict=True):
        second = row["segment_b_start"]
        assert contains(draft["text"][: draft["a_tokens"]], row["input_ids"][1 : second - 1])
        assert contains(planned_b(draft), row["input_ids"][second:-1])
        assert len(row["input_ids"]) == min(len(draft["text"]), ROOM) + 3
        assert row["trimmed"] == max(len(draft["text"]) - ROOM, 0)


def test_a_random_b_is_one_of_another_document_of_the_same_length(vocabulary):
    unpaired = drafts_of(np.random.default_rng(3).integers(0, 12, size=1000).tolist(), vocabulary, longest=14)
    segments = {}
    for draft in unpaired.to_pylist():
        segments.setdefault(draft["example_id"] >> 32, []).append(planned_b(draft))
    seen = 0
    for row, draft in zip(completed(unpaired, vocabulary).to_pylist(), unpaired.to_pylist(), strict=True):
        if row["is_random_next"]:
            seen += 1
            b = row["input_ids"][row["segment_b_start"] : -1]
            assert row["document_b"] != row["document_a"]
            assert b in segments[row["document_b"]]
            assert len(b) == len(planned_b(draft))
    assert seen > 400


def test_a_random_b_without_one_of_its_length_is_the_next_longer_one(vocabulary):
    lengths, rng = [3, 5, 9, 20], np.random.default_rng(0)
    unpaired = [
        {
            "example_id": document << 32,
            "shuffle_key": document,
            "text": rng.choice(vocabulary.replacement_ids, size=2 + length).tolist(),
            "a_tokens": 2,
            "room": ROOM,
            "is_random_next": True,
        }
        for document, length in enumerate(lengths)
    ]
    rows = completed(pa.Table.from_pylist(unpaired, schema=UNPAIRED_EXAMPLES), vocabulary).to_pylist()
    assert [len(row["input_ids"]) - row["segment_b_start"] - 1 for row in rows] == [5, 9, 20, 9]


def test_the_only_sentence_of_a_document_takes_any_b(vocabulary):
    unpaired = drafts_of([*range(500)], vocabulary, longest=14, alone=0.5)
    rows = [
        row
        for row, draft in zip(completed(unpaired, vocabulary).to_pylist(), unpaired.to_pylist(), strict=True)
        if not planned_b(draft)
    ]
    assert {len(row["input_ids"]) - row["segment_b_start"] - 1 for row in rows} == set(range(1, 15))
    assert len({row["document_b"] for row in rows}) > 100


def test_documents_of_one_sentence_give_their_sentences_to_each_other(vocabulary):
    unpaired = drafts_of([*range(50)], vocabulary, alone=1.0)
    texts = {draft["example_id"] >> 32: draft["text"] for draft in unpaired.to_pylist()}
    rows = completed(unpaired, vocabulary).to_pylist()
    assert all(contains(texts[row["document_b"]], row["input_ids"][row["segment_b_start"] : -1]) for row in rows)
    assert len({row["document_b"] for row in rows}) > 20


def test_documents_donate_segments_in_proportion_to_their_examples(vocabulary):
    documents = np.random.default_rng(0).permutation([0] * 300 + [1] * 600 + [2] * 100).tolist()
    both = [drafts_of(documents, vocabulary, random_share=share, seed=int(share)) for share in (1.0, 0.0)]
    rows = completed(pa.concat_tables(both).combine_chunks(), vocabulary).to_pylist()
    given = np.bincount([row["document_b"] for row in rows if row["document_a"] == 0 and row["is_random_next"]])
    assert given[0] == 0
    assert abs(given[1] / given.sum() - 6 / 7) < 4 * np.sqrt(6 / 49 / given.sum())


def test_a_consecutive_pair_keeps_its_document(unpaired, vocabulary):
    rows = [row for row in completed(unpaired, vocabulary).to_pylist() if not row["is_random_next"]]
    assert {row["document_a"] == row["document_b"] for row in rows} == {True}


@pytest.mark.parametrize("documents", [[0, 1], [0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 2]])
def test_one_other_document_is_enough_even_without_a_consecutive_pair(vocabulary, documents):
    rows = completed(drafts_of(documents, vocabulary, random_share=1.0), vocabulary).to_pylist()
    assert all(row["document_a"] != row["document_b"] for row in rows)
    assert all(len(row["input_ids"]) > row["segment_b_start"] + 1 for row in rows)


def test_a_single_document_is_rejected_if_pairs_are_random(vocabulary):
    with pytest.raises(InputError, match="only one document"):
        completed(drafts_of([3] * 20, vocabulary), vocabulary)


def test_a_single_document_is_enough_without_random_pairs(vocabulary):
    assert len(completed(drafts_of([3] * 20, vocabulary, random_share=0.0), vocabulary)) == 20


def test_without_a_segment_b_an_example_is_cls_text_sep(vocabulary):
    texts = [vocabulary.replacement_ids[:5].tolist(), vocabulary.replacement_ids[3:10].tolist()]
    unpaired = [
        {
            "example_id": number,
            "shuffle_key": 1,
            "text": text,
            "a_tokens": len(text),
            "room": ROOM,
            "is_random_next": False,
        }
        for number, text in enumerate(texts)
    ]
    rows = completed(pa.Table.from_pylist(unpaired, schema=UNPAIRED_EXAMPLES), vocabulary).to_pylist()
    assert [row["input_ids"] for row in rows] == [[vocabulary.cls, *text, vocabulary.sep] for text in texts]
    assert [row["segment_b_start"] for row in rows] == [7, 9]


def test_without_a_masker_the_text_is_unchanged(unpaired, vocabulary):
    table = completed(unpaired, vocabulary)
    assert {len(row) for name in ("mask_positions", "mask_labels") for row in table[name]} == {0}


def test_masks_are_those_of_the_masker_and_cover_no_special_token(unpaired, vocabulary):
    plain = completed(unpaired, vocabulary)
    masked = completed(unpaired, vocabulary, masker=Masker(vocabulary, MaskingConfig(), 5))
    hidden = 0
    for row, text in zip(masked.to_pylist(), plain.to_pylist(), strict=True):
        ids = row["input_ids"]
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
            hidden += ids[position] == vocabulary.mask
            ids[position] = label
        assert ids == text["input_ids"]
    assert hidden > 400


def test_the_statistics_match_a_count_in_plain_python(unpaired, vocabulary):
    table = completed(unpaired, vocabulary, masker=Masker(vocabulary, MaskingConfig(), 5))
    rows = table.to_pylist()
    seen = [
        (row["input_ids"][position], label)
        for row in rows
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True)
    ]
    assert example_statistics(table, vocabulary) == {
        "examples": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "own_tokens": sum(
            len(row["input_ids"]) - 3 if row["document_a"] == row["document_b"] else row["segment_b_start"] - 2
            for row in rows
        ),
        "trimmed_tokens": sum(row["trimmed"] for row in rows),
        "random_next": sum(row["is_random_next"] for row in rows),
        "predicted": len(seen),
        "predicted_as_mask": sum(shown == vocabulary.mask for shown, _ in seen),
        "predicted_as_kept": sum(shown == label for shown, label in seen),
        "predicted_as_random": sum(shown not in (vocabulary.mask, label) for shown, label in seen),
        "examples_without_prediction": sum(not row["mask_positions"] for row in rows),
        "length_0000": sum(len(row["input_ids"]) < 32 for row in rows),
        "length_0032": sum(len(row["input_ids"]) == 32 for row in rows),
    }


def test_statistics_of_slices_add_up(unpaired, vocabulary):
    table = completed(unpaired, vocabulary, masker=Masker(vocabulary, MaskingConfig(), 5))
    parts = [example_statistics(table.slice(start, 9), vocabulary) for start in range(0, len(table), 9)]
    whole = example_statistics(table, vocabulary)
    assert {name: sum(part[name] for part in parts) for name in whole} == whole
