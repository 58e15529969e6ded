"""Documents as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

_BATCH_SENTENCES = 1024  # an encoded sentence takes some kB until its ids are taken out


@dataclass(frozen=True)
class TokenDocument:
    """A document without special tokens.

    Attributes:
        row: its number in the corpus.
        start: where its tokens begin in `TokenDocuments.ids`.
        ends: where each sentence ends, counted from `start`; sentences without a token are left out.
    """

    row: int
    start: int
    ends: Sequence[int]


@dataclass(frozen=True)
class TokenDocuments:
    """Documents one after the other in one array of ids."""

    ids: NDArray[np.uint16]
    documents: Sequence[TokenDocument]


def tokenise(rows: Sequence[int], sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> TokenDocuments:
    """The documents that leave at least one token.

    Text that reads like a special token, such as `[MASK]`, is encoded as any other text.

    Args:
        rows: the number of each document in the corpus.
        sentences: of each document.
    """
    tokenizer.encode_special_tokens = True
    flat = list(chain.from_iterable(sentences))
    ids, lengths = [np.empty(0, np.uint16)], []
    for at in range(0, len(flat), _BATCH_SENTENCES):
        encodings = [
            encoding.ids
            for encoding in tokenizer.encode_batch_fast(flat[at : at + _BATCH_SENTENCES], add_special_tokens=False)
        ]
        found = [len(encoding) for encoding in encodings]
        ids.append(np.fromiter(chain.from_iterable(encodings), dtype=np.uint16, count=sum(found)))
        lengths += found
    documents, sentence, start = [], 0, 0
    for row, document in zip(rows, sentences, strict=True):
        own = [length for length in lengths[sentence : sentence + len(document)] if length]
        sentence += len(document)
        if own:
            documents.append(TokenDocument(row, start, list(accumulate(own))))
            start += documents[-1].ends[-1]
    return TokenDocuments(np.concatenate(ids), documents)
