"""Padded batches of shard rows, and a thread that prepares them in advance."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shards import ShardSet

T = TypeVar("T")
Lengths = TypeVar("Lengths", int, NDArray[Any])
WIDTH_MULTIPLE = 8  # tensor cores need dimensions that are multiples of 8


@dataclass(frozen=True)
class Batch:
    """Padded batch of masked examples.

    Attributes:
        input_ids, attention_mask, token_type_ids: (batch, length).
        mask_index: (masked,) indices of the tokens to predict in the flattened (batch x length).
        mask_labels: (masked,) original ids of these tokens.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    mask_index: NDArray[np.int64]
    mask_labels: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return int(self.attention_mask.sum())

    def fully_masked(self, mask_id: int) -> "Batch":
        """Return the batch with `[MASK]` at every predicted position, including random and kept tokens."""
        input_ids = self.input_ids.copy()
        input_ids.reshape(-1)[self.mask_index] = mask_id
        return replace(self, input_ids=input_ids)


def padded_width(longest: Lengths, multiple: int = WIDTH_MULTIPLE) -> Lengths:
    """Return the width of a batch whose longest row has `longest` tokens, for a number or an array of them."""
    return -(-longest // multiple) * multiple


def collate(shards: ShardSet, planned: PlannedRows, *, pad_id: int, multiple: int = WIDTH_MULTIPLE) -> Batch:
    """Return rows padded to the longest one, rounded up to a multiple; dynamic masks are drawn here."""
    located = shards.locate(planned.rows)
    masker_inputs = shards.masker_inputs(located)
    lengths = np.diff(masker_inputs["offsets"])
    longest = int(lengths.max())
    width = min(padded_width(longest, multiple), max(shards.max_seq_length, longest))
    if shards.masker is None:
        ids = masker_inputs["ids"]
        position_lists = [shard.mask_positions.row(row) for shard, row in located]
        counts = [len(positions) for positions in position_lists]
        positions = np.concatenate(position_lists)
        labels = np.concatenate([shard.mask_labels.row(row) for shard, row in located])
    else:
        masked = shards.masker.mask(epochs=planned.epochs, **masker_inputs)
        ids, positions, labels = masked.input_ids, masked.mask_positions, masked.mask_labels
        counts = np.diff(masked.mask_offsets).tolist()
    columns = np.arange(width)
    attention = columns < lengths[:, None]
    input_ids = np.full((len(lengths), width), pad_id, dtype=np.int64)
    input_ids[attention] = ids
    return Batch(
        input_ids=input_ids,
        attention_mask=attention.astype(np.int64),
        token_type_ids=((columns >= masker_inputs["segment_b_start"][:, None]) & attention).astype(np.int64),
        mask_index=positions.astype(np.int64) + np.repeat(np.arange(len(lengths)) * width, counts),
        mask_labels=labels.astype(np.int64),
    )


def heldout_rows(
    shards: ShardSet, *, batch_size: int, limit: int | None = None, rank: int = 0, num_workers: int = 1
) -> Iterator[PlannedRows]:
    """Yield batches that cover every row once over all ranks, longest first so that running out of memory fails early.

    Args:
        limit: use only the first rows, which are a random sample because shards are shuffled.
    """
    rows = np.arange(len(shards))[:limit]
    order = rows[np.argsort(-shards.lengths(rows), kind="stable")]
    for start in range(rank * batch_size, len(order), num_workers * batch_size):
        batch = order[start : start + batch_size]
        yield PlannedRows(batch, np.zeros_like(batch))


def prefetch(make: Callable[[], Iterator[T]], depth: int = 2) -> Iterator[T]:
    """Yield the items of `make()`, produced in a thread up to `depth` items ahead; its exceptions are raised here."""
    items: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, T | BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                items.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in make():
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, item = items.get()
            if isinstance(item, BaseException):
                raise item
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
