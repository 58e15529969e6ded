from itertools import pairwise

import numpy as np
import pytest

from distilray.pretraining_data.encoding import token_documents
from distilray.pretraining_data.encoding.token_documents import tokenise
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.distilray.tiny_line import sentences_of


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return build_tokenizer(read_tokenizer(tokenizer_dir))


def sentences_in(found, document):
    own = found.ids[document.start : document.start + document.ends[-1]].tolist()
    return [own[start:stop] for start, stop in pairwise([0, *document.ends])]


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_each_sentence_is_tokenised_without_special_tokens(tokenizer, monkeypatch, batch):
    monkeypatch.setattr(token_documents, "_BATCH_SENTENCES", batch)
    sentences = sentences_of(30)
    found = tokenise(range(30), sentences, tokenizer)
    assert [document.row for document in found.documents] == list(range(30))
    for document, texts in zip(found.documents, sentences, strict=True):
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert sentences_in(found, document) == expected


def test_sentences_and_documents_without_a_token_are_left_out(tokenizer):
    found = tokenise([4, 5, 9], [["", "paris", " "], ["", "\u200b"], ["rome", "rome is"]], tokenizer)
    assert [(document.row, len(document.ends)) for document in found.documents] == [(4, 1), (9, 2)]
    assert found.documents[-1].start + found.documents[-1].ends[-1] == len(found.ids)


def test_no_document_gives_no_token(tokenizer):
    found = tokenise([], [], tokenizer)
    assert (len(found.documents), len(found.ids), found.ids.dtype) == (0, 0, np.uint16)


@pytest.mark.parametrize("text", ["[MASK] of [SEP]", "[CLS]", "a [PAD] b [UNK]"])
def test_text_that_reads_like_a_special_token_becomes_none(tokenizer, tokenizer_dir, text):
    vocabulary = vocabulary_of(read_tokenizer(tokenizer_dir))
    names = {vocabulary.pad, vocabulary.cls, vocabulary.sep, vocabulary.mask}
    found = tokenise([0], [[text]], tokenizer)
    assert len(found.ids)
    assert not names & set(found.ids.tolist())
