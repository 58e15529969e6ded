import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.encoding.examples import ExampleEncoder, encode_documents, example_statistics
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from distilray.schemas import EXAMPLES
from tests.distilray.tiny_line import encode_config, encoded_table, sentences_of

DOCUMENTS = 30


@pytest.fixture(scope="module")
def tokenizer_json(tokenizer_dir):
    return read_tokenizer(tokenizer_dir)


@pytest.fixture(scope="module")
def vocabulary(tokenizer_json):
    return vocabulary_of(tokenizer_json)


@pytest.fixture(scope="module")
def documents(tokenizer_json):
    return encode_documents(range(DOCUMENTS), sentences_of(DOCUMENTS), tokenizer_json)


def restored(row):
    """The ids before masking."""
    ids = list(row["input_ids"])
    for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
        ids[position] = label
    return ids


def contains(whole, part):
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def test_each_sentence_is_tokenised_without_special_tokens(documents, tokenizer_json):
    tokenizer = build_tokenizer(tokenizer_json)
    for document, sentences in zip(documents, sentences_of(DOCUMENTS), strict=True):
        expected = [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]
        assert [part.tolist() for part in document.sentences] == expected


def test_sentences_and_documents_without_a_token_are_left_out(tokenizer_json):
    found = encode_documents([4, 5, 9], [["", "paris", " "], ["", "\u200b"], ["rome", "rome is"]], tokenizer_json)
    assert [(document.row, len(document.sentences)) for document in found] == [(4, 1), (9, 2)]


def test_rows_are_cls_a_sep_b_sep(tokenizer_dir, vocabulary):
    for row in encoded_table(tokenizer_dir).to_pylist():
        ids, second = restored(row), row["segment_b_start"]
        assert ids[0] == vocabulary.cls
        assert ids[second - 1] == ids[-1] == vocabulary.sep
        assert [place for place, token in enumerate(ids) if token in vocabulary.special] == [
            0,
            second - 1,
            len(ids) - 1,
        ]
        assert second >= 3
        assert len(ids) - second >= 2


def test_with_the_labels_put_back_each_segment_is_text_of_its_document(tokenizer_dir, documents):
    whole = {document.row: np.concatenate(document.sentences).tolist() for document in documents}
    rows = encoded_table(tokenizer_dir, DOCUMENTS, dupe_factor=2).to_pylist()
    assert {row["is_random_next"] for row in rows} == {True, False}
    for row in rows:
        ids, second = restored(row), row["segment_b_start"]
        assert contains(whole[row["document_a"]], ids[1 : second - 1])
        assert contains(whole[row["document_b"]], ids[second:-1])
        assert row["is_random_next"] == (row["document_a"] != row["document_b"])


def test_without_random_segments_no_token_of_the_corpus_is_lost(tokenizer_dir, documents):
    found = encoded_table(tokenizer_dir, DOCUMENTS, random_next_probability=0.0, short_seq_prob=0.0).to_pylist()
    for document in documents:
        rows = [row for row in found if row["document_a"] == document.row]
        tokens = sum(len(row["input_ids"]) - 3 + row["trimmed"] for row in rows)
        # The last sentence is used twice when it would stand alone.
        assert tokens >= sum(len(part) for part in document.sentences)


@pytest.mark.parametrize("max_seq_length", [16, 32, 200])
def test_no_row_is_longer_than_allowed_and_the_longest_are_full(tokenizer_dir, max_seq_length):
    lengths = [len(row) for row in encoded_table(tokenizer_dir, max_seq_length=max_seq_length)["input_ids"].to_pylist()]
    assert max(lengths) <= max_seq_length
    assert max(lengths) == max_seq_length or max_seq_length == 200


def test_example_ids_are_unique_and_tell_document_and_copy(tokenizer_dir):
    table = encoded_table(tokenizer_dir, DOCUMENTS, dupe_factor=3)
    ids = table["example_id"].to_numpy()
    assert len(np.unique(ids)) == len(ids)
    assert (ids >> 24).tolist() == table["document_a"].to_pylist()
    assert set((ids >> 16) & 0xFF) == {0, 1, 2}


def test_copies_of_a_document_have_other_pairs_and_masks(tokenizer_dir):
    rows = encoded_table(tokenizer_dir, dupe_factor=2).to_pylist()
    first, second = ([row["input_ids"] for row in rows if row["example_id"] >> 16 & 0xFF == copy] for copy in (0, 1))
    assert not [row for row in first if row in second]


def test_the_shuffle_keys_are_unique_and_not_in_document_order(tokenizer_dir):
    table = encoded_table(tokenizer_dir, DOCUMENTS)
    keys = table["shuffle_key"].to_numpy()
    assert len(np.unique(keys)) == len(keys)
    ranks = np.argsort(np.argsort(keys))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 4 / np.sqrt(len(ranks))


@pytest.mark.parametrize("size", [1, 7, DOCUMENTS])
def test_how_documents_are_batched_changes_nothing(tokenizer_dir, tokenizer_json, documents, size):
    whole = encoded_table(tokenizer_dir, DOCUMENTS)
    sentences = sentences_of(DOCUMENTS)
    parts = []
    for start in range(0, DOCUMENTS, size):
        rows = range(start, min(start + size, DOCUMENTS))
        part = encode_documents(rows, sentences[start : start + size], tokenizer_json)
        parts.append(ExampleEncoder(encode_config(), tokenizer_json, documents).encode(part))
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()


def test_another_seed_gives_other_examples_and_the_same_seed_the_same(tokenizer_dir):
    first = encoded_table(tokenizer_dir, seed=1).to_pylist()
    assert encoded_table(tokenizer_dir, seed=1).to_pylist() == first
    assert encoded_table(tokenizer_dir, seed=2).to_pylist() != first


def test_no_document_gives_an_empty_table_of_the_schema(tokenizer_json):
    table = ExampleEncoder(encode_config(), tokenizer_json, []).encode([])
    assert len(table) == 0
    assert table.schema.equals(EXAMPLES, check_metadata=True)


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_each_segment_has_its_share_of_masks_and_no_special_token_is_one(tokenizer_dir, vocabulary, probability):
    table = encoded_table(tokenizer_dir, masking={"mlm_probability": probability})
    for row in table.to_pylist():
        second, size = row["segment_b_start"], len(row["input_ids"])
        positions = row["mask_positions"]
        assert positions == sorted(set(positions))
        for tokens, inside in ((second - 2, range(1, second - 1)), (size - second - 1, range(second, size - 1))):
            assert sum(place in inside for place in positions) == int(np.floor(probability * tokens + 0.5))
        assert not set(row["mask_labels"]) & set(vocabulary.special)


def test_the_statistics_are_what_counting_by_hand_gives(tokenizer_dir, vocabulary):
    table = encoded_table(tokenizer_dir, DOCUMENTS, dupe_factor=4)
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
        "trimmed_tokens": sum(row["trimmed"] for row in rows),
    }


def test_the_statistics_of_parts_add_up_to_those_of_the_whole(tokenizer_dir, vocabulary):
    table = encoded_table(tokenizer_dir, DOCUMENTS)
    whole = example_statistics(table, vocabulary)
    parts = [example_statistics(table.slice(start, 9), vocabulary) for start in range(0, len(table), 9)]
    assert {name: sum(part[name] for part in parts) for name in whole} == whole
    assert whole["predicted"] == sum(whole[f"predicted_as_{kind}"] for kind in ("mask", "kept", "random"))
