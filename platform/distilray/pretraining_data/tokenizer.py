"""Tokenizer files, vocabularies, and the hash that keeps artifacts of different tokenizers apart."""

import functools
import hashlib
import json
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from distilray.config.pretraining_data import MAX_VOCABULARY
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.outputs import read_verified

TOKENIZER_FILE = "tokenizer.json"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True)
class Vocabulary:
    """Properties of a tokenizer that encoding and masking need.

    Attributes:
        size: number of ids.
        special: ids that are never masked and never drawn.
        replacement_ids: ids that may replace another token: all except special and `[unused]` ones, ascending.
        is_continuation: (size,) True for tokens that continue a word (`##ing`).
    """

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    special: tuple[int, ...]
    replacement_ids: NDArray[np.uint16]
    is_continuation: NDArray[np.bool_]


def read_tokenizer(model_dir: str) -> str:
    """Return the tokenizer of a model folder as canonical JSON, without truncation and padding.

    Raises:
        InputError: `tokenizer.json` is missing, invalid, or does not match the manifest of its run.
    """
    file = storage.join(model_dir, TOKENIZER_FILE)
    if not storage.exists(file):
        raise InputError(f"{file}: not found; choose a folder that contains a tokenizer")
    data = read_verified(file)
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{file}: not a tokenizer ({error}); choose a folder that contains one") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return canonical_json(tokenizer)


def canonical_json(tokenizer: Tokenizer) -> str:
    """Return a tokenizer as JSON with sorted keys, so that equal tokenizers have equal text."""
    return json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, ensure_ascii=False)


def tokenizer_hash(tokenizer_json: str) -> str:
    """Return the sha256 of the canonical JSON. Tokenizers with equal hashes give equal ids for every text."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


@functools.lru_cache(maxsize=4)
def build_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Return the tokenizer of a canonical JSON; one shared instance per process."""
    return Tokenizer.from_str(tokenizer_json)


@functools.lru_cache(maxsize=4)
def vocabulary_of(tokenizer_json: str) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Raises:
        InputError: a special token of BERT is missing, or the ids do not fit into 16 bits.
    """
    ids: dict[str, int] = build_tokenizer(tokenizer_json).get_vocab(with_added_tokens=True)
    size = max(ids.values()) + 1
    if size > MAX_VOCABULARY:
        raise InputError(f"vocabulary of {size:,} ids: at most {MAX_VOCABULARY:,} fit the 16-bit ids of the shards")
    missing = [name for name in SPECIAL_TOKENS if name not in ids]
    if missing:
        raise InputError(
            f"the tokenizer has no {', '.join(missing)}; a BERT tokenizer has all of {', '.join(SPECIAL_TOKENS)}"
        )
    special = tuple(sorted(ids[name] for name in SPECIAL_TOKENS))
    excluded = {*special, *(index for token, index in ids.items() if _UNUSED.fullmatch(token))}
    replacement_ids = np.array(sorted(set(ids.values()) - excluded), dtype=np.uint16)
    if len(replacement_ids) < 2:
        raise InputError("the vocabulary has fewer than two ordinary tokens; train a larger one")
    pad, unk, cls, sep, mask = (ids[name] for name in SPECIAL_TOKENS)
    is_continuation = np.zeros(size, dtype=bool)
    is_continuation[[index for token, index in ids.items() if token.startswith("##") and len(token) > 2]] = True
    return Vocabulary(size, pad, unk, cls, sep, mask, special, replacement_ids, is_continuation)
