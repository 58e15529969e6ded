"""Terminal viewer for examples: decoded text with its segments and masks in color."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.text import Text
from tokenizers import Tokenizer

from distilray.errors import InputError
from distilray.pretraining_data.shards import Shard, ShardSet
from distilray.pretraining_data.tokenizer import Vocabulary, build_tokenizer, read_tokenizer, vocabulary_of
from distilray.pretraining_data.unpaired_examples import COPY_SHIFT, DOCUMENT_SHIFT

LEGEND = "seen{label}: [MASK]{token} masked, other!{token} replaced by a random token, token={token} kept"
# Style by the character after the token that the model sees.
_STYLES = {"": "bold yellow", "!": "bold red", "=": "bold green"}


@dataclass(frozen=True)
class ExampleViewer:
    """Viewer for the examples of one split of a run of `jobs.encode_corpus`.

    Attributes:
        epoch: epoch whose masks are shown if masks are dynamic.
    """

    shards: ShardSet
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    epoch: int

    @classmethod
    def open(cls, shards_dir: str, split: str, *, epoch: int = 0) -> "ExampleViewer":
        """Open the shards and their tokenizer.

        Raises:
            InputError: the folder, split or epoch cannot be used, the tokenizer is not the one of the shards, or an
                epoch is requested for static masks.
        """
        if epoch < 0:
            raise InputError(f"--epoch {epoch}: epochs are counted from 0")
        shards, tokenizer_json = ShardSet(shards_dir, split), read_tokenizer(shards_dir)
        if epoch and shards.masker is None:
            raise InputError(
                f"--epoch {epoch}: the masks of split '{split}' are the same in every epoch; remove the option"
            )
        return cls(shards, build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json), epoch)

    def rows(self, start: int, count: int) -> Iterator[Text]:
        """Return rendered examples, each with a heading and one line per segment.

        Raises:
            InputError: row `start` does not exist, the count is below 1, or a shard does not match the manifest. Raised
                by the call, not by the iterator.
        """
        if not 0 <= start < len(self.shards):
            raise InputError(f"--start {start}: the split has rows 0 to {len(self.shards) - 1:,}")
        if count < 1:
            raise InputError(f"--rows {count}: must be at least 1")
        rows = range(start, min(start + count, len(self.shards)))
        self.shards.verify(np.array(rows))
        return (self._row(row) for row in rows)

    def _row(self, row: int) -> Text:
        ((shard, local_row),) = self.shards.locate(np.array([row]))
        ids, labels = self._seen(shard, local_row)
        b_start = int(shard.segment_b_start[local_row])
        text = Text().append(f"row {row:,}: {_heading(shard, local_row, len(ids), len(labels))}\n", style="dim")
        segments = [("A ", range(b_start)), ("B ", range(b_start, len(ids)))]
        for name, positions in segments:
            if positions:
                text.append(name, style="bold cyan")
                text.append_text(self._segment(ids, labels, positions)).append("\n")
        return text

    def _seen(self, shard: Shard, local_row: int) -> tuple[list[int], dict[int, int]]:
        """Return the input ids, and the labels by position."""
        if self.shards.masker is None:
            positions, labels = shard.mask_positions.row(local_row), shard.mask_labels.row(local_row)
            return shard.input_ids.row(local_row).tolist(), dict(zip(positions.tolist(), labels.tolist(), strict=True))
        masked = self.shards.masker.mask(epochs=self.epoch, **self.shards.masker_inputs([(shard, local_row)]))
        return masked.input_ids.tolist(), dict(
            zip(masked.mask_positions.tolist(), masked.mask_labels.tolist(), strict=True)
        )

    def _segment(self, ids: list[int], labels: dict[int, int], positions: range) -> Text:
        text, previous = Text(), self.vocabulary.cls
        for position in positions:
            token, original = ids[position], labels.get(position, ids[position])
            # A trimmed segment may start inside a word; its first piece cannot be joined to anything.
            joined = self.vocabulary.is_continuation[original] and previous not in self.vocabulary.special
            previous = original
            if text and not joined:
                text.append(" ")
            if position in labels:
                marker = "" if token == self.vocabulary.mask else "=" if token == original else "!"
                text.append(f"{self._token(token)}{marker}{{{self._token(original)}}}", style=_STYLES[marker])
            else:
                text.append(self._token(token).removeprefix("##" if joined else ""))
        return text

    def _token(self, token_id: int) -> str:
        """Return the token with control characters escaped."""
        token = self.tokenizer.id_to_token(token_id) or f"[id {token_id}]"
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in token)


def _heading(shard: Shard, local_row: int, tokens: int, masks: int) -> str:
    example = int(shard.example_id[local_row])
    document, other = example >> DOCUMENT_SHIFT, int(shard.document_b[local_row])
    copy = example >> COPY_SHIFT & ((1 << DOCUMENT_SHIFT - COPY_SHIFT) - 1)
    number = example & ((1 << COPY_SHIFT) - 1)
    origin_of_b = ""
    if int(shard.segment_b_start[local_row]) < tokens:
        origin_of_b = "B follows A" if document == other else f"B of document {other:,}"
    parts = [
        f"document {document:,}, copy {copy}, example {number:,}",
        origin_of_b,
        f"{tokens} tokens, {masks} to predict, {int(shard.trimmed[local_row])} trimmed",
    ]
    return "; ".join(part for part in parts if part)
