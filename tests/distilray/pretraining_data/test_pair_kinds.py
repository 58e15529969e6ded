"""Cuts and lengths of segments do not reveal the kind of a pair."""

import numpy as np
import pytest

from distilray.pretraining_data.examples import ExampleBuilder
from distilray.pretraining_data.token_ids import TokenizedDocument, TokenizedDocuments
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.pretraining_data.unpaired_examples import UnpairedExamples, read_unpaired
from tests.tiny.shards import encode_config

BEGIN, WORD, END = 50, 51, 52  # ids of the first, the middle and the last tokens of every sentence


def token_documents(documents=150):
    """Documents of 3 to 80 sentences of 4 to 50 tokens, a few of them much longer."""
    rng = np.random.default_rng(1)
    found, ids = [], []
    for row in range(documents):
        lengths = np.where(rng.random(80) < 0.01, 300, rng.integers(4, 51, size=80))[: rng.integers(3, 81)]
        found.append(TokenizedDocument(row, sum(map(len, ids)), np.cumsum(lengths).tolist()))
        ids += [np.array([BEGIN, *[WORD] * (length - 2), END], np.uint16) for length in lengths.tolist()]
    return TokenizedDocuments(np.concatenate(ids), found)


@pytest.fixture(
    scope="module", params=[(128, 0.0), (128, 0.1), (512, 0.0), (512, 0.1)], ids=lambda values: "{}-{}".format(*values)
)
def examples(request, tokenizer_dir):
    """Some 10,000 examples: input_ids, segment_b_start, and which are random."""
    length, short_seq_prob = request.param
    copies = length // 25
    config = encode_config(max_seq_length=length, short_seq_prob=short_seq_prob, dupe_factor=copies)
    unpaired, messages = UnpairedExamples(config), []
    unpaired.add(token_documents())
    unpaired.write(lambda data: messages.append(bytes(data)), buckets=1)
    vocabulary = vocabulary_of(read_tokenizer(tokenizer_dir))
    table = ExampleBuilder(config, vocabulary, None).build(read_unpaired(messages))
    assert len(table) > 6000
    return table["input_ids"].to_pylist(), table["segment_b_start"].to_pylist(), table["is_random_next"].to_numpy()


def b_tokens(ids, start):
    return len(ids) - start - 1


def a_is_whole(ids, start):
    return (ids[1], ids[start - 2]) == (BEGIN, END)


def b_is_whole(ids, start):
    return (ids[start], ids[-2]) == (BEGIN, END)


RULES = {
    "B does not end like a sentence": lambda ids, start: ids[-2] != END,
    "B does not begin like a sentence": lambda ids, start: ids[start] != BEGIN,
    "A does not end like a sentence": lambda ids, start: ids[start - 2] != END,
    "A does not begin like a sentence": lambda ids, start: ids[1] != BEGIN,
    "B is trimmed at the end only": lambda ids, start: (ids[start], ids[-2]) == (BEGIN, WORD),
    "A is trimmed and B is not": lambda ids, start: b_is_whole(ids, start) and not a_is_whole(ids, start),
    "B is longer than A": lambda ids, start: b_tokens(ids, start) > start - 2,
    "A is short": lambda ids, start: start < 50,
    "B is short": lambda ids, start: b_tokens(ids, start) < 50,
    "the example is short": lambda ids, start: len(ids) < 120,
    "the example has its full length": lambda ids, start: len(ids) in (128, 512),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_on_cuts_and_lengths_is_at_chance(examples, rule):
    ids, starts, is_random = examples
    found = np.array([RULES[rule](*row) for row in zip(ids, starts, strict=True)])
    assert 0.47 < np.mean(found == is_random) < 0.53


def test_some_pairs_are_trimmed_and_some_are_not(examples):
    ids, starts, _ = examples
    trimmed = np.mean([not b_is_whole(*row) for row in zip(ids, starts, strict=True)])
    assert 0.05 < trimmed < 0.95
