"""Examples for people to look at: decoded text with its segments and masks, coloured on a terminal."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.text import Text
from tokenizers import Tokenizer

from distilray.errors import InputError
from distilray.pretraining_data.shards import Shard, ShardSet
from distilray.pretraining_data.tokenizer import Vocabulary, build_tokenizer, read_tokenizer, vocabulary_of
from distilray.pretraining_data.unpaired_examples import COPY_SHIFT, DOCUMENT_SHIFT

LEGEND = "seen{to predict}: [MASK]{token} hidden, other!{token} another token in its place, token={token} left as it is"
_STYLES = {"": "bold yellow", "!": "bold red", "=": "bold green"}  # by the sign behind what the model sees


@dataclass(frozen=True)
class ExampleViewer:
    """The examples of one split of a run folder of `jobs.encode_corpus`.

    Attributes:
        epoch: whose masks are shown, where each epoch has its own.
    """

    shards: ShardSet
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    epoch: int

    @classmethod
    def open(cls, shards_dir: str, split: str, *, epoch: int = 0) -> "ExampleViewer":
        """Opens the shards with the tokenizer that lies beside them.

        Raises:
            InputError: the folder, split or epoch cannot be used, the tokenizer is not that of the shards, or an epoch
                is asked of masks that are the same in all.
        """
        if epoch < 0:
            raise InputError(f"--epoch {epoch}: epochs are counted from 0")
        shards, tokenizer_json = ShardSet(shards_dir, split), read_tokenizer(shards_dir)
        if epoch and shards.masker is None:
            raise InputError(f"--epoch {epoch}: the masks of split '{split}' are the same in every epoch; leave it out")
        return cls(shards, build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json), epoch)

    def rows(self, start: int, count: int) -> Iterator[Text]:
        """Some examples, each as a heading and a line for each segment.

        Raises:
            InputError: there is no row `start`, the count is below 1, or a shard is not what the manifest says; raised
                before the first row is asked for.
        """
        if not 0 <= start < len(self.shards):
            raise InputError(f"--start {start}: the split has the rows 0 to {len(self.shards) - 1:,}")
        if count < 1:
            raise InputError(f"--rows {count}: ask for at least 1")
        rows = range(start, min(start + count, len(self.shards)))
        self.shards.verify(np.array(rows))
        return (self._row(row) for row in rows)

    def _row(self, row: int) -> Text:
        ((shard, inside),) = self.shards.locate(np.array([row]))
        ids, labels = self._seen(shard, inside)
        second = int(shard.segment_b_start[inside])
        text = Text().append(f"row {row:,}: {_heading(shard, inside, len(ids), len(labels))}\n", style="dim")
        segments = [("A ", range(second)), ("B ", range(second, len(ids)))]
        for name, places in segments:
            if places:
                text.append(name, style="bold cyan")
                text.append_text(self._segment(ids, labels, places)).append("\n")
        return text

    def _seen(self, shard: Shard, inside: int) -> tuple[list[int], dict[int, int]]:
        """The ids as the model sees them, and by position what it is to predict."""
        if self.shards.masker is None:
            positions, found = shard.mask_positions.row(inside), shard.mask_labels.row(inside)
            return shard.input_ids.row(inside).tolist(), dict(zip(positions.tolist(), found.tolist(), strict=True))
        masked = self.shards.masker.mask(epochs=self.epoch, **self.shards.masker_inputs([(shard, inside)]))
        labels = dict(zip(masked.mask_positions.tolist(), masked.mask_labels.tolist(), strict=True))
        return masked.input_ids.tolist(), labels

    def _segment(self, ids: list[int], labels: dict[int, int], places: range) -> Text:
        text, before = Text(), self.vocabulary.cls
        for place in places:
            token, original = ids[place], labels.get(place, ids[place])
            # A trimmed segment may begin inside a word: its first piece goes on with nothing that is shown.
            joined = self.vocabulary.is_continuation[original] and before not in self.vocabulary.special
            before = original
            if text and not joined:
                text.append(" ")
            if place in labels:
                sign = "" if token == self.vocabulary.mask else "=" if token == original else "!"
                text.append(f"{self._token(token)}{sign}{{{self._token(original)}}}", style=_STYLES[sign])
            else:
                text.append(self._token(token).removeprefix("##" if joined else ""))
        return text

    def _token(self, token_id: int) -> str:
        """The token, without a sign that a terminal would act on."""
        token = self.tokenizer.id_to_token(token_id) or f"[id {token_id}]"
        return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in token)


def _heading(shard: Shard, inside: int, tokens: int, masks: int) -> str:
    example = int(shard.example_id[inside])
    document, other = example >> DOCUMENT_SHIFT, int(shard.document_b[inside])
    copy = example >> COPY_SHIFT & ((1 << DOCUMENT_SHIFT - COPY_SHIFT) - 1)
    number = example & ((1 << COPY_SHIFT) - 1)
    second = ""
    if int(shard.segment_b_start[inside]) < tokens:
        second = "B follows A" if document == other else f"B of document {other:,}"
    parts = [
        f"document {document:,}, copy {copy}, example {number:,}",
        second,
        f"{tokens} tokens, {masks} to predict, {int(shard.trimmed[inside])} trimmed",
    ]
    return "; ".join(part for part in parts if part)
