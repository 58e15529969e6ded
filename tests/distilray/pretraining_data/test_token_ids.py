from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from distilray.config.sample import resolve_sample
from distilray.pretraining_data import token_ids
from distilray.pretraining_data.token_ids import CachedTokenizer, tokenize
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.tiny.corpus import sentences_of


@pytest.fixture(scope="module")
def tokenizer_json(tokenizer_dir):
    return read_tokenizer(tokenizer_dir)


@pytest.fixture(scope="module")
def encoder():
    """Tokenizer with a real vocabulary, and its cached counterpart."""
    tokenizer_json = read_tokenizer(resolve_sample("sample:encoder"))
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    return tokenizer, CachedTokenizer(Tokenizer.from_str(tokenizer_json))


def sentences_in(found, document):
    own = found.ids[document.start : document.start + document.ends[-1]].tolist()
    return [own[start:stop] for start, stop in pairwise([0, *document.ends])]


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_sentences_are_tokenized_without_special_tokens(tokenizer_json, monkeypatch, batch):
    monkeypatch.setattr(token_ids, "_BATCH_SENTENCES", batch)
    sentences = sentences_of(30)
    found, tokenizer = tokenize(range(30), sentences, tokenizer_json), build_tokenizer(tokenizer_json)
    assert [document.row for document in found.documents] == list(range(30))
    for document, texts in zip(found.documents, sentences, strict=True):
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert sentences_in(found, document) == expected


def test_sentences_and_documents_without_a_token_are_left_out(tokenizer_json):
    found = tokenize([4, 5, 9], [["", "paris", " "], ["", "\u200b"], ["rome", "rome is"]], tokenizer_json)
    assert [(document.row, len(document.ends)) for document in found.documents] == [(4, 1), (9, 2)]
    assert found.documents[-1].start + found.documents[-1].ends[-1] == len(found.ids)


def test_no_document_gives_no_token(tokenizer_json):
    found = tokenize([], [], tokenizer_json)
    assert (len(found.documents), len(found.ids), found.ids.dtype) == (0, 0, np.uint16)


@pytest.mark.parametrize("text", ["[MASK] of [SEP]", "[CLS]", "a [PAD] b [UNK]"])
def test_text_that_looks_like_a_special_token_is_ordinary_text(tokenizer_json, text):
    vocabulary = vocabulary_of(tokenizer_json)
    names = {vocabulary.pad, vocabulary.cls, vocabulary.sep, vocabulary.mask}
    found = tokenize([0], [[text]], tokenizer_json)
    assert len(found.ids)
    assert not names & set(found.ids.tolist())


texts = st.text(
    st.one_of(st.sampled_from("ab Éé\u0301,.-[]'\u00a0\t\x1c\x00 ##日本ß"), st.characters(exclude_categories=("Cs",))),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(texts, st.lists(texts, max_size=5).map(" ".join)), min_size=1, max_size=8))
def test_encoding_word_by_word_gives_the_ids_of_the_library(encoder, sentences):
    tokenizer, pieces = encoder
    ids, lengths = pieces.encode(sentences)
    expected = [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]
    assert ids.tolist() == [token for found in expected for token in found]
    assert lengths.tolist() == [len(found) for found in expected]


def test_the_cache_is_bounded(monkeypatch, encoder):
    _, pieces = encoder
    monkeypatch.setattr(token_ids, "_CACHE_BYTES", 5000)
    for number in range(20):
        words = [f"word{number}x{index}" for index in range(10)]
        assert pieces.encode([" ".join(words)])[1].tolist() == [sum(len(pieces.encode([word])[0]) for word in words)]
        assert len(pieces._numbers) < 50


def test_other_users_of_the_tokenizer_still_read_special_tokens(tokenizer_json):
    tokenize([0], [["paris is the [MASK] of france"]], tokenizer_json)
    tokenizer = build_tokenizer(tokenizer_json)
    assert tokenizer.token_to_id("[MASK]") in tokenizer.encode("the [MASK] of france").ids
