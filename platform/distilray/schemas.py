"""Arrow schemas of the artifacts, each with its name and version in the metadata."""

import pyarrow as pa

from distilray.errors import InputError

_KEY = b"distilray.schema"


def _versioned(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={_KEY: f"{name}/{version}".encode()})


DOCUMENTS = _versioned(
    "documents",
    2,
    [
        pa.field("doc_id", pa.string(), nullable=False),  # "<source>:<id within the source>", unique in a corpus
        pa.field("source", pa.string(), nullable=False),  # "wikipedia", "books", ...
        pa.field("title", pa.string(), nullable=False),
        pa.field("sentences", pa.list_(pa.string()), nullable=False),
        pa.field("file", pa.string(), nullable=False),  # name of the input file
        pa.field("page_id", pa.int64()),
        pa.field("revision_id", pa.int64()),
        pa.field("license", pa.string(), nullable=False),
    ],
)

# Masked examples: token ids as seen by the model, and sparse labels. There is no padding and there are no token type
# ids: segment B extends from `segment_b_start` (the length of the example if there is no segment B) to the end. With
# dynamic masks (recorded in the manifest) the ids are the original text and both mask columns contain empty lists.
EXAMPLES = _versioned(
    "examples",
    2,
    [
        pa.field("example_id", pa.int64(), nullable=False),  # document << 32 | copy << 24 | number within the document
        pa.field("shuffle_key", pa.uint64(), nullable=False),  # examples are stored in ascending order of this key
        pa.field("input_ids", pa.list_(pa.uint16()), nullable=False),
        pa.field("segment_b_start", pa.uint16(), nullable=False),
        pa.field("mask_positions", pa.list_(pa.uint16()), nullable=False),
        pa.field("mask_labels", pa.list_(pa.uint16()), nullable=False),  # original id at each mask position
        pa.field("is_random_next", pa.bool_(), nullable=False),
        pa.field("trimmed", pa.uint32(), nullable=False),  # tokens that did not fit max_seq_length
        pa.field("document_a", pa.int64(), nullable=False),  # row number of the document in the corpus
        pa.field("document_b", pa.int64(), nullable=False),
    ],
)

# Outputs of a frozen teacher for each example of a shard, in row order. Hidden states cover all tokens, or are empty
# lists. `top_*` contain the k most probable tokens, best first, and a sample of the others, at all positions or only at
# masked ones; the manifest records these choices. Probabilities are those at the temperature.
TEACHER_TARGETS = _versioned(
    "teacher_targets",
    2,
    [
        pa.field("hidden", pa.list_(pa.int8()), nullable=False),  # tokens x dim: last hidden states / scale, rounded
        pa.field("hidden_scales", pa.list_(pa.float32()), nullable=False),  # tokens: largest absolute value / 127
        pa.field("top_ids", pa.list_(pa.uint16()), nullable=False),  # positions x k
        pa.field("top_log_probabilities", pa.list_(pa.float16()), nullable=False),  # positions x k
        pa.field(
            "rest", pa.list_(pa.float32()), nullable=False
        ),  # positions: probability of all other tokens; 0 with a sample
    ],
)

# Outputs of a fine-tuned model for each dev row of a task, in the order of the dev sets and their rows.
DEV_PREDICTIONS = _versioned(
    "dev_predictions",
    1,
    [
        pa.field("split", pa.string(), nullable=False),  # "dev", or the two dev sets of MNLI
        pa.field("row", pa.int64(), nullable=False),  # from 0, among the usable rows
        pa.field("label", pa.float64(), nullable=False),  # class id or score
        pa.field("prediction", pa.float64(), nullable=False),  # class id or score
        pa.field("outputs", pa.list_(pa.float32()), nullable=False),  # class logits, or the unclipped score
    ],
)


def schema_name(schema: pa.Schema) -> str:
    """Return name and version of a schema, such as `examples/2`; `none` if it has none."""
    return (schema.metadata or {}).get(_KEY, b"none").decode()


def check_schema(actual: pa.Schema, expected: pa.Schema, file: str) -> None:
    """Check the schema and its version.

    Args:
        file: path or URI of the file, for the message.

    Raises:
        InputError: names the file, its schema and the expected one.
    """
    actual_name, expected_name = schema_name(actual), schema_name(expected)
    if actual_name != expected_name:
        raise InputError(
            f"{file}: schema '{actual_name}', but '{expected_name}' is needed; write it again with this version"
        )
    if not actual.equals(expected):
        raise InputError(
            f"{file}: columns differ from schema '{expected_name}'; the file was changed after it was written"
        )
