"""The tokenizer of the line: one hash names it in every manifest, and artefacts of two tokenizers never mix."""

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
from distilray.runtime.outputs import verify_file

TOKENIZER_FILE = "tokenizer.json"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True)
class Vocabulary:
    """What encoding and masking need to know of a tokenizer.

    Attributes:
        size: number of ids.
        special: ids that are never masked and never drawn.
        drawable: ids that may stand in for another token: all but the special and the `[unused]` ones, ascending.
        is_continuation: (size,) whether a token goes on with the word of the token before it (`##ing`).
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
    """The tokenizer of a model folder as canonical JSON, without truncation and padding.

    Raises:
        InputError: no tokenizer.json, a broken one, or another than the manifest of its run says.
    """
    file = storage.join(model_dir, TOKENIZER_FILE)
    if not storage.exists(file):
        raise InputError(f"{file}: not found; name a folder that holds a tokenizer")
    data = storage.read_bytes(file)
    verify_file(file, hashlib.sha256(data).hexdigest())
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{file}: not a tokenizer ({error}); name a folder that holds one") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return canonical_json(tokenizer)


def canonical_json(tokenizer: Tokenizer) -> str:
    """A tokenizer as JSON in one spelling."""
    return json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, ensure_ascii=False)


def tokenizer_hash(tokenizer_json: str) -> str:
    """sha256 of the canonical JSON: equal exactly when two tokenizers give equal ids for every text."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


@functools.lru_cache(maxsize=4)
def build_tokenizer(tokenizer_json: str) -> Tokenizer:
    """The tokenizer of a canonical JSON; one instance per process."""
    return Tokenizer.from_str(tokenizer_json)


@functools.lru_cache(maxsize=4)
def vocabulary_of(tokenizer_json: str) -> Vocabulary:
    """The vocabulary of a tokenizer.

    Raises:
        InputError: a special token of BERT is missing, or there are more ids than 16 bits hold.
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
        raise InputError("the vocabulary holds fewer than two ordinary tokens; train a larger one")
    pad, unk, cls, sep, mask = (ids[name] for name in SPECIAL_TOKENS)
    is_continuation = np.zeros(size, dtype=bool)
    is_continuation[[index for token, index in ids.items() if token.startswith("##") and len(token) > 2]] = True
    return Vocabulary(size, pad, unk, cls, sep, mask, special, replacement_ids, is_continuation)
