"""Rows of shards to padded batches, prepared in a thread while the model works."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distilray.pretraining_data.sample_plan import Rows
from distilray.pretraining_data.shards import ShardSet

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """A padded batch of masked examples.

    Attributes:
        input_ids, attention_mask, token_type_ids: (batch, length).
        mask_index: (masked,) place of each token to predict in the flattened (batch x length).
        mask_labels: (masked,) the original id there.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    mask_index: NDArray[np.int64]
    mask_labels: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask.sum())


def collate(shards: ShardSet, rows: Rows, *, pad_id: int, multiple: int = 8) -> Batch:
    """Pads rows to the longest of them, rounded up to a multiple."""
    found = shards.locate(rows)
    lengths = shards.lengths[rows]
    width = min(-(-int(lengths.max()) // multiple) * multiple, max(shards.max_seq_length, int(lengths.max())))
    columns = np.arange(width)
    attention = columns < lengths[:, None]
    segment_b_start = np.array([shard.segment_b_start[row] for shard, row in found], dtype=np.int64)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    input_ids[attention] = np.concatenate([shard.input_ids.row(row) for shard, row in found])
    positions = np.concatenate([shard.mask_positions.row(row) for shard, row in found]).astype(np.int64)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention.astype(np.int64),
        token_type_ids=((columns >= segment_b_start[:, None]) & attention).astype(np.int64),
        mask_index=positions + np.repeat(np.arange(len(rows)) * width, shards.mask_counts[rows]),
        mask_labels=np.concatenate([shard.mask_labels.row(row) for shard, row in found]).astype(np.int64),
    )


def heldout_batches(shards: ShardSet, *, batch_size: int, pad_id: int) -> Iterator[Batch]:
    """Every row once, longest first, so that too large a batch size fails at once."""
    order = np.argsort(-shards.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield collate(shards, order[start : start + batch_size], pad_id=pad_id)


def prefetched(make: Callable[[], Iterator[T]], depth: int = 2) -> Iterator[T]:
    """The items of `make()`, made up to `depth` ahead in a thread; what it raises is raised here."""
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

    def work() -> None:
        try:
            for item in make():
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
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
