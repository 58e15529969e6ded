"""Cuts and lengths of segments do not reveal the kind of a pair."""

import numpy as np
import pytest

from distilray.pretraining_data.examples import ExampleBuilder
from distilray.pretraining_data.token_ids import TokenizedDocument, TokenizedDocuments
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.pretraining_data.unpaired_examples import UnpairedExamples, read_unpaired
from tests.tiny.shards import encode_config

FIRST, WORD, LAST = 50, 51, 52  # ids of the first, the middle and the last tokens of every sentence


def token_documents(documents=150):
    """Documents of 3 to 80 sentences of 4 to 50 tokens, a few of them much longer."""
    rng, tokenized, ids = np.random.default_rng(1), [], []
    for row in range(documents):
        lengths = np.where(rng.random(80) < 0.01, 300, rng.integers(4, 51, size=80))[: rng.integers(3, 81)]
        tokenized.append(TokenizedDocument(row, sum(map(len, ids)), np.cumsum(lengths).tolist()))
        ids += [np.array([FIRST, *[WORD] * (length - 2), LAST], np.uint16) for length in lengths.tolist()]
    return TokenizedDocuments(np.concatenate(ids), tokenized)


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("short_seq_prob", [0.0, 0.1])
def test_rules_on_cuts_and_lengths_are_at_chance(tokenizer_dir, length, short_seq_prob):
    config = encode_config(max_seq_length=length, short_seq_prob=short_seq_prob, dupe_factor=length // 25)
    vocabulary = vocabulary_of(read_tokenizer(tokenizer_dir))
    unpaired, messages = UnpairedExamples(config, vocabulary.unk), []
    unpaired.add(token_documents())
    unpaired.write(lambda data: messages.append(bytes(data)), buckets=1)
    table = ExampleBuilder(config, vocabulary, None).build(read_unpaired(messages))
    assert len(table) > 6000
    ids, offsets = (getattr(table["input_ids"].combine_chunks(), name).to_numpy() for name in ("values", "offsets"))
    start, end = offsets[:-1].astype(int), offsets[1:].astype(int)
    b_start = table["segment_b_start"].to_numpy().astype(int)
    tokens, a_tokens = end - start, b_start - 2
    b_tokens = tokens - b_start - 1
    a_first, a_last, b_first, b_last = ids[start + 1], ids[start + b_start - 2], ids[start + b_start], ids[end - 2]
    a_is_whole, b_is_whole = (a_first == FIRST) & (a_last == LAST), (b_first == FIRST) & (b_last == LAST)
    rules = {
        "B does not end like a sentence": b_last != LAST,
        "B does not begin like a sentence": b_first != FIRST,
        "A does not end like a sentence": a_last != LAST,
        "A does not begin like a sentence": a_first != FIRST,
        "B is trimmed at the end only": (b_first == FIRST) & (b_last == WORD),
        "A is trimmed and B is not": b_is_whole & ~a_is_whole,
        "B is longer than A": b_tokens > a_tokens,
        "A is short": a_tokens < 48,
        "B is short": b_tokens < 50,
        "the example is short": tokens < 120,
        "the example has its full length": tokens == length,
    }
    is_random = table["is_random_next"].to_numpy()
    accuracy = {name: np.mean(rule == is_random) for name, rule in rules.items()}
    assert {name: value for name, value in accuracy.items() if not 0.47 < value < 0.53} == {}
    assert 0.05 < np.mean(~b_is_whole) < 0.95
