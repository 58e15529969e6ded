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


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_sentences_are_tokenized_without_special_tokens(tokenizer_json, monkeypatch, batch):
    monkeypatch.setattr(token_ids, "_BATCH_SENTENCES", batch)
    sentences, tokenizer = sentences_of(30), build_tokenizer(tokenizer_json)
    tokenized = tokenize(range(30), sentences, tokenizer_json)
    assert [document.row for document in tokenized.documents] == list(range(30))
    for document, texts in zip(tokenized.documents, sentences, strict=True):
        ids = tokenized.ids[document.start : document.start + document.ends[-1]].tolist()
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert [ids[start:stop] for start, stop in pairwise([0, *document.ends])] == expected


def test_sentences_and_documents_without_a_token_are_omitted(tokenizer_json):
    tokenized = tokenize([4, 5, 9], [["", "paris", " "], ["", "\u200b"], ["rome", "rome is"]], tokenizer_json)
    assert [(document.row, document.start, document.ends) for document in tokenized.documents] == [
        (4, 0, [1]),
        (9, 1, [1, 3]),
    ]
    assert len(tokenized.ids) == 4
    empty = tokenize([], [], tokenizer_json)
    assert (len(empty.documents), len(empty.ids), empty.ids.dtype) == (0, 0, np.uint16)


@pytest.mark.parametrize("text", ["[MASK] of [SEP]", "[CLS]", "a [PAD] b [UNK]"])
def test_text_that_looks_like_a_special_token_is_ordinary_text(tokenizer_json, text):
    vocabulary = vocabulary_of(tokenizer_json)
    ids = tokenize([0], [[text]], tokenizer_json).ids.tolist()
    assert ids
    assert not {vocabulary.pad, vocabulary.cls, vocabulary.sep, vocabulary.mask} & set(ids)
    assert vocabulary.mask in build_tokenizer(tokenizer_json).encode("the [MASK]").ids  # for other users


texts = st.text(
    st.one_of(st.sampled_from("ab Éé\u0301,.-[]'\u00a0\t\x1c\x00 ##日本ß"), st.characters(exclude_categories=("Cs",))),
    max_size=40,
)


@settings(max_examples=100)
@given(st.lists(st.one_of(texts, st.lists(texts, max_size=5).map(" ".join)), min_size=1, max_size=8))
def test_encoding_word_by_word_gives_the_ids_of_the_library(encoder, sentences):
    tokenizer, cached = encoder
    ids, lengths = cached.encode(sentences)
    expected = [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]
    assert ids.tolist() == [token for sentence in expected for token in sentence]
    assert lengths.tolist() == [len(sentence) for sentence in expected]


def test_the_cache_is_limited(monkeypatch, encoder):
    tokenizer, cached = encoder
    monkeypatch.setattr(token_ids, "_CACHE_BYTES", 5000)
    for number in range(20):
        text = " ".join(f"word{number}x{index}" for index in range(10))
        assert cached.encode([text])[0].tolist() == tokenizer.encode(text, add_special_tokens=False).ids
        assert len(cached._numbers) < 50
