import pytest
from tokenizers import Tokenizer

from benchmarks.bert_pretraining_data import examples, tokenise
from distilray.config.sample import resolve_sample
from distilray.pretraining_data.tokenizer import read_tokenizer

TEXTS = [
    "Crème brûlée, naïve façade, Ångström und Straße: ÉCOLE!",
    "東京 is the capital of Japan; Київ too.",
    "tab\tand\x00nul and \ufffd and\u00a0space e\u0301",
    "a" * 100 + " " + "b" * 101 + " end",
    "don't stop-me now; e.g. 3.14% of $5,000 @home [brackets] under_score",
    "The quick brown fox jumps over the lazy dog, unbelievably.",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_str(read_tokenizer(resolve_sample("sample:encoder")))


@pytest.mark.parametrize("text", TEXTS)
def test_the_peer_has_the_pieces_of_the_library(tokenizer, text):
    assert tokenise(text, tokenizer.get_vocab()) == tokenizer.encode(text, add_special_tokens=False).tokens


@pytest.mark.parametrize("max_seq_length", [64, 128])
def test_the_examples_of_the_peer_are_those_that_the_paper_describes(tokenizer, max_seq_length):
    documents = [[text.lower() for text in TEXTS[number % 3 :]] * 3 for number in range(12)]
    found = list(examples(documents, tokenizer.get_vocab(), max_seq_length=max_seq_length, dupe_factor=4))
    assert len(found) > 100
    assert 0.3 < sum(example.is_random_next for example in found) / len(found) < 0.8
    for example in found:
        assert len(example.tokens) == len(example.segment_ids) <= max_seq_length
        assert len(example.masked_labels) == max(1, round(0.15 * len(example.tokens)))
        assert example.tokens[0] == "[CLS]"
        assert not {"[CLS]", "[SEP]"} & set(example.masked_labels)
