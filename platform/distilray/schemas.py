"""The Arrow schema of every hand-over between stations: one constant each, with its version in the metadata."""

import pyarrow as pa

from distilray.errors import InputError


def _versioned(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={b"distilray.schema": f"{name}/{version}".encode()})


DOCUMENTS = _versioned(
    "documents",
    2,
    [
        pa.field("doc_id", pa.string(), nullable=False),  # "<source>:<id inside the source>", unique in a corpus
        pa.field("source", pa.string(), nullable=False),  # "wikipedia", "books", ...
        pa.field("title", pa.string(), nullable=False),
        pa.field("sentences", pa.list_(pa.string()), nullable=False),
        pa.field("file", pa.string(), nullable=False),  # provenance: name of the dump or book file
        pa.field("page_id", pa.int64()),
        pa.field("revision_id", pa.int64()),
        pa.field("license", pa.string(), nullable=False),
    ],
)

# A masked example: the ids as the model sees them, and sparse labels. No padding, no token type ids: segment B begins
# at `segment_b_start` (the length of the example when there is no segment B) and ends with the example. Where masks are
# dynamic (the manifest says so), the ids are the text as it is, and both mask columns hold empty lists.
EXAMPLES = _versioned(
    "examples",
    2,
    [
        pa.field("example_id", pa.int64(), nullable=False),  # document << 32 | copy << 24 | number in the document
        pa.field("shuffle_key", pa.uint64(), nullable=False),  # shards hold the examples in ascending order of it
        pa.field("input_ids", pa.list_(pa.uint16()), nullable=False),
        pa.field("segment_b_start", pa.uint16(), nullable=False),
        pa.field("mask_positions", pa.list_(pa.uint16()), nullable=False),
        pa.field("mask_labels", pa.list_(pa.uint16()), nullable=False),  # the original id at each mask position
        pa.field("is_random_next", pa.bool_(), nullable=False),
        pa.field("trimmed", pa.uint32(), nullable=False),  # tokens that did not fit max_seq_length
        pa.field("document_a", pa.int64(), nullable=False),  # row number of the document in the corpus
        pa.field("document_b", pa.int64(), nullable=False),
    ],
)

# What a frozen teacher says of each example of a shard, in the order of its rows. `hidden` holds all tokens one after
# the other; `top_*` hold the k most probable tokens, best first, at every token or at the masked ones only (the
# manifest says which, and k).
TEACHER_TARGETS = _versioned(
    "teacher_targets",
    1,
    [
        pa.field("hidden", pa.list_(pa.float16()), nullable=False),  # tokens x dim: the last hidden states
        pa.field("top_ids", pa.list_(pa.uint16()), nullable=False),  # positions x k
        # positions x k: logarithms of the softened probabilities, which add up to 1 over the whole vocabulary
        pa.field("top_log_probabilities", pa.list_(pa.float32()), nullable=False),
    ],
)

# What a fine-tuned model answers for each dev row of a task, in the order of the dev sets and their rows.
DEV_PREDICTIONS = _versioned(
    "dev_predictions",
    1,
    [
        pa.field("split", pa.string(), nullable=False),  # "dev", or the two of MNLI
        pa.field("row", pa.int64(), nullable=False),  # from 0, of the rows that were kept
        pa.field("label", pa.float64(), nullable=False),  # class id, or score
        pa.field("prediction", pa.float64(), nullable=False),  # the same
        pa.field("outputs", pa.list_(pa.float32()), nullable=False),  # logits of the classes, or the unclipped score
    ],
)


def check_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Refuses a file of another schema or version.

    Raises:
        InputError: naming the file, what it holds and what was expected.
    """
    key = b"distilray.schema"
    have, want = (found.metadata or {}).get(key, b"none").decode(), (expected.metadata or {})[key].decode()
    if have != want:
        raise InputError(f"{where}: schema '{have}' where '{want}' is needed; write it again with this version")
    if not found.equals(expected):
        raise InputError(f"{where}: columns differ from schema '{want}'; the file was changed after it was written")
