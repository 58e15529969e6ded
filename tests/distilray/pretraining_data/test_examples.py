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


@pytest.fixture(scope="module")
def unpaired_of(vocabulary):
    """Return unpaired examples with segments of ordinary ids: (document, tokens of A, tokens of B, is random)."""

    def table(rows, seed=0):
        rng = np.random.default_rng(seed)
        values = [
            {
                "example_id": document << 32 | seed << 24 | number,
                "shuffle_key": number,
                "text": rng.choice(vocabulary.replacement_ids, size=a_tokens + b_tokens).tolist(),
                "a_tokens": a_tokens,
                "room": ROOM,
                "is_random_next": bool(is_random),
            }
            for number, (document, a_tokens, b_tokens, is_random) in enumerate(rows)
        ]
        return pa.Table.from_pylist(values, schema=UNPAIRED_EXAMPLES)

    return table


@pytest.fixture(scope="module")
def random_unpaired(unpaired_of):
    """Return unpaired examples of some documents, in order, with segments of random lengths.

    Args:
        longest: length of the longest A and B; more than half of `ROOM` has some of them trimmed.
        single: share of examples without a B of their own.
    """

    def table(documents, *, random_share=0.5, seed=0, longest=16, single=0.0):
        rng = np.random.default_rng(seed)
        rows = []
        for document in documents:
            a_tokens, b_tokens = rng.integers(1, longest + 1, size=2).tolist()
            is_single = rng.random() < single
            rows.append((document, a_tokens, 0 if is_single else b_tokens, is_single or rng.random() < random_share))
        return unpaired_of(rows, seed)

    return table


@pytest.fixture(scope="module")
def build(vocabulary):
    """Build examples; returns the table."""
    return lambda unpaired, masker=None: ExampleBuilder(encode_config(), vocabulary, masker).build(unpaired)


@pytest.fixture(scope="module")
def unpaired(random_unpaired):
    return random_unpaired(np.random.default_rng(3).integers(0, 12, size=400).tolist())


def pairs_of(table, unpaired):
    """Yield each example with its unpaired one, and the tokens of its A and B."""
    for row, draft in zip(table.to_pylist(), unpaired.to_pylist(), strict=True):
        b_start = row["segment_b_start"]
        yield row, draft, row["input_ids"][1 : b_start - 1], row["input_ids"][b_start:-1]


def planned_b(draft):
    return draft["text"][draft["a_tokens"] :]


def contains(whole, part):
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def test_examples_have_special_tokens_and_the_order_of_the_unpaired_ones(unpaired, vocabulary, build):
    table = build(unpaired)
    assert table.schema.equals(EXAMPLES, check_metadata=True)
    assert table["example_id"].equals(unpaired["example_id"])
    for row in table.to_pylist():
        ids, b_start = row["input_ids"], row["segment_b_start"]
        assert [ids[0], ids[b_start - 1], ids[-1]] == [vocabulary.cls, vocabulary.sep, vocabulary.sep]
        assert len(ids) <= ROOM + 3
        assert row["document_a"] == row["example_id"] >> 32
        assert row["is_random_next"] == (row["document_a"] != row["document_b"])


def test_segments_are_trimmed_to_their_room(random_unpaired, build):
    unpaired = random_unpaired([*range(12)] * 30, longest=40, random_share=0.0)
    for row, draft, a, b in pairs_of(build(unpaired), unpaired):
        assert contains(draft["text"][: draft["a_tokens"]], a)
        assert contains(planned_b(draft), b)
        assert len(a) + len(b) == min(len(draft["text"]), ROOM)
        assert row["trimmed"] == max(len(draft["text"]) - ROOM, 0)


def test_a_random_b_comes_from_another_document_and_has_the_planned_length(random_unpaired, build):
    unpaired = random_unpaired(np.random.default_rng(3).integers(0, 12, size=1000).tolist(), longest=14)
    segments = {}
    for draft in unpaired.to_pylist():
        segments.setdefault(draft["example_id"] >> 32, []).append(planned_b(draft))
    random_pairs = [pair for pair in pairs_of(build(unpaired), unpaired) if pair[0]["is_random_next"]]
    assert len(random_pairs) > 400
    for row, draft, _, b in random_pairs:
        assert row["document_b"] != row["document_a"]
        assert b in segments[row["document_b"]]
        assert len(b) == len(planned_b(draft))


def test_a_random_b_without_one_of_its_length_is_the_next_longer_one(unpaired_of, build):
    unpaired = unpaired_of([(document, 2, length, True) for document, length in enumerate([3, 5, 9, 20])])
    assert [len(b) for _, _, _, b in pairs_of(build(unpaired), unpaired)] == [5, 9, 20, 9]


def test_the_only_sentence_of_a_document_is_paired_with_any_b(random_unpaired, build):
    unpaired = random_unpaired(range(500), longest=14, single=0.5)
    pairs = [pair for pair in pairs_of(build(unpaired), unpaired) if not planned_b(pair[1])]
    assert {len(b) for *_, b in pairs} == set(range(1, 15))
    assert len({row["document_b"] for row, *_ in pairs}) > 100


def test_documents_with_one_sentence_are_paired_with_each_other(random_unpaired, build):
    unpaired = random_unpaired(range(50), single=1.0)
    texts = {draft["example_id"] >> 32: draft["text"] for draft in unpaired.to_pylist()}
    pairs = list(pairs_of(build(unpaired), unpaired))
    assert all(contains(texts[row["document_b"]], b) for row, _, _, b in pairs)
    assert len({row["document_b"] for row, *_ in pairs}) > 20


def test_documents_donate_segments_in_proportion_to_their_examples(random_unpaired, build):
    documents = np.random.default_rng(0).permutation([0] * 300 + [1] * 600 + [2] * 100).tolist()
    both_kinds = [random_unpaired(documents, random_share=share, seed=int(share)) for share in (1.0, 0.0)]
    rows = build(pa.concat_tables(both_kinds).combine_chunks()).to_pylist()
    donors = np.bincount([row["document_b"] for row in rows if row["document_a"] == 0 and row["is_random_next"]])
    assert donors[0] == 0
    assert abs(donors[1] / donors.sum() - 6 / 7) < 4 * np.sqrt(6 / 49 / donors.sum())


@pytest.mark.parametrize("documents", [[0, 1], [0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 2]], ids=str)
def test_one_other_document_is_sufficient_without_a_consecutive_pair(random_unpaired, build, documents):
    unpaired = random_unpaired(documents, random_share=1.0)
    for row, _, _, b in pairs_of(build(unpaired), unpaired):
        assert row["document_a"] != row["document_b"]
        assert len(b) > 0


def test_a_single_document_is_refused_only_if_pairs_are_random(random_unpaired, build):
    assert len(build(random_unpaired([3] * 20, random_share=0.0))) == 20
    with pytest.raises(InputError, match="only one document"):
        build(random_unpaired([3] * 20))


def test_without_a_segment_b_an_example_is_cls_text_sep(unpaired_of, vocabulary, build):
    unpaired = unpaired_of([(0, 5, 0, False), (1, 7, 0, False)])
    rows = build(unpaired).to_pylist()
    texts = unpaired["text"].to_pylist()
    assert [row["input_ids"] for row in rows] == [[vocabulary.cls, *text, vocabulary.sep] for text in texts]
    assert [row["segment_b_start"] for row in rows] == [7, 9]


def test_masks_are_those_of_the_masker(unpaired, vocabulary, build):
    plain, masked = build(unpaired), build(unpaired, Masker(vocabulary, MaskingConfig(), 5))
    assert {len(row) for name in ("mask_positions", "mask_labels") for row in plain[name]} == {0}
    mask_tokens = 0
    for row, text in zip(masked.to_pylist(), plain.to_pylist(), strict=True):
        ids = row["input_ids"]
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
            mask_tokens += ids[position] == vocabulary.mask
            ids[position] = label
        assert ids == text["input_ids"]
    assert mask_tokens > 400


def test_statistics_match_a_count_in_plain_python_and_add_up(unpaired, vocabulary, build):
    table = build(unpaired, Masker(vocabulary, MaskingConfig(), 5))
    rows = table.to_pylist()
    seen = [
        (row["input_ids"][position], label)
        for row in rows
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True)
    ]
    expected = {
        "examples": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "own_tokens": sum(
            row["segment_b_start"] - 2 if row["is_random_next"] else len(row["input_ids"]) - 3 for row in rows
        ),
        "trimmed_tokens": sum(row["trimmed"] for row in rows),
        "random_next": sum(row["is_random_next"] for row in rows),
        "predicted": len(seen),
        "predicted_as_mask": sum(token == vocabulary.mask for token, _ in seen),
        "predicted_as_kept": sum(token == label for token, label in seen),
        "predicted_as_random": sum(token not in (vocabulary.mask, label) for token, label in seen),
        "examples_without_prediction": sum(not row["mask_positions"] for row in rows),
        "length_0000": sum(len(row["input_ids"]) < 32 for row in rows),
        "length_0032": sum(len(row["input_ids"]) == 32 for row in rows),
    }
    assert example_statistics(table, vocabulary) == expected
    parts = [example_statistics(table.slice(start, 9), vocabulary) for start in range(0, len(table), 9)]
    assert {name: sum(part[name] for part in parts) for name in expected} == expected
