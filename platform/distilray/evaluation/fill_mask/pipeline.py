"""Scores texts in files with Ray Data: tasks read and tokenise, a pool of actors holds the models.

A file is read by one task, which yields each part as soon as it is complete; an actor scores it, and writes and records
its answers. A run that was interrupted reads its files again and scores the parts that are not complete.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import ray
import ray.data

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.errors import reading
from distilray.evaluation.fill_mask.chunk_scorer import (
    CHUNKS,
    FILES,
    ChunkScorer,
    chunk_numbers,
    read_chunks,
)
from distilray.evaluation.fill_mask.readers import DataFile
from distilray.runtime.environment import inside_cluster
from distilray.runtime.pieces import CompletedPieces
from distilray.runtime.progress import Progress
from distilray.runtime.resources import Need, can_be_satisfied, ensure_capacity
from distilray.runtime.run_owner import check_visible
from distilray.runtime.session import data_labels, input_error_table, is_input_error, ray_session, result_rows

_READERS = 2  # files that are read at once; a reader is far ahead of the actors

Values = dict[str, Any]


def score_files(
    files: Sequence[DataFile], config: EvaluateFillMaskConfig, folder: str, *, tokenizer_json: str, max_length: int
) -> list[int]:
    """Scores all files into the run folder; gives the numbers of their parts, in order.

    Raises:
        InputError: a file cannot be read to its end, or the cluster has no place for an actor.
    """
    waiting = _waiting(folder, files)
    if waiting:
        read = functools.partial(
            _read_task, config=config, folder=folder, tokenizer_json=tokenizer_json, max_length=max_length
        )
        with ray_session(config.ray):
            _run(waiting, read, config, folder)
    if torn := _waiting(folder, files):
        raise RuntimeError(f"parts of {torn[0].name} are not complete though all tasks have ended")
    return [part for parts in _parts(folder, files).values() for part in parts]


def _waiting(folder: str, files: Sequence[DataFile]) -> list[DataFile]:
    """The files of which a part is still to be done."""
    read, done = (CompletedPieces(folder, stage).numbers() for stage in (FILES, CHUNKS))
    parts = _parts(folder, [file for file in files if file.number in read])
    return [file for file in files if file.number not in parts or not done.issuperset(parts[file.number])]


def _parts(folder: str, files: Sequence[DataFile]) -> dict[int, range]:
    """The numbers of the parts of files that were read to their end, by the number of the file."""
    numbers = [file.number for file in files]
    facts = CompletedPieces(folder, FILES).records(numbers)
    return {number: chunk_numbers(number, fact["parts"]) for number, fact in zip(numbers, facts, strict=True)}


def _run(files: Sequence[DataFile], read: Any, config: EvaluateFillMaskConfig, folder: str) -> None:
    completed = CompletedPieces(folder, CHUNKS)
    device, pool, resources = _pool(config, folder)
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    kept = (context.target_max_block_size, options.preserve_order, options.label_selector)
    # A part goes on as soon as it is there, whatever its size; otherwise blocks would collect many.
    context.target_max_block_size, options.preserve_order = 1, False
    options.label_selector = None if device == "cuda" else data_labels()
    try:
        items = [{"item": asdict(file)} for file in files]
        parts = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            read,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0,  # the actors have them all, and reading takes little
            compute=ray.data.TaskPoolStrategy(size=min(_READERS, len(items))),
        )
        scored = parts.map_batches(
            _ScoreActor,
            fn_constructor_kwargs={
                "config": config,
                "folder": folder,
                "device": device,
                "on_cluster": inside_cluster(),
            },
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            **resources,
        )
        with Progress("evaluate_fill_mask", total=None, unit="rows") as progress:
            records = completed.records(sorted(completed.numbers()))
            progress.start_at(rows := sum(record["rows"] for record in records))
            bad = 0
            for part in result_rows(scored):
                rows, bad = rows + part["rows"], bad + part["bad"]
                progress.advance_to(rows, f"{bad:,} bad rows")
    finally:
        context.target_max_block_size, options.preserve_order, options.label_selector = kept


def _read_task(
    batch: pa.Table, *, config: EvaluateFillMaskConfig, folder: str, tokenizer_json: str, max_length: int
) -> Iterator[pa.Table]:
    try:
        for row in batch.to_pylist():
            file = DataFile(**row["item"])
            with reading(file.uri):
                yield from read_chunks(file, config, tokenizer_json, max_length=max_length, folder=folder)
    except Exception as error:
        yield input_error_table(error)


class _ScoreActor:
    """`ChunkScorer` as Ray Data calls it: a block is a part."""

    def __init__(self, config: EvaluateFillMaskConfig, folder: str, device: str, on_cluster: bool) -> None:
        self._failure: pa.Table | None = None  # of the construction, which no call could report if it were raised here
        try:
            if on_cluster:
                check_visible(folder)
            self._scorer = ChunkScorer(config, folder, device)
        except Exception as error:
            self._failure = input_error_table(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if is_input_error(batch):
            return batch
        if self._failure is not None:
            return self._failure
        try:
            return pa.Table.from_pylist([self._scorer.score(batch.slice(row, 1)) for row in range(batch.num_rows)])
        except Exception as error:
            return input_error_table(error)


def _pool(config: EvaluateFillMaskConfig, folder: str) -> tuple[str, ray.data.ActorPoolStrategy, Values]:
    """Return the device of the actors, their pool, and the resources of each.

    On a local cluster the pool has all its actors from the start. Inside a cluster it begins with the first one that
    there is room for and grows with the cluster. It may have fewer actors where there are fewer parts.

    Raises:
        InputError: the actors can never have their resources, or a node does not see the run folder.
    """
    scaling, grows = config.scaling, inside_cluster()
    need = Need(
        "actor",
        "lower scaling.actors or the resources of each, or set device=cpu",
        gpus=scaling.gpus_per_actor,
        count=1 if grows else scaling.actors or 1,
    )
    use_gpu = config.device == "gpu" or (config.device == "auto" and can_be_satisfied(replace(need, count=1)))
    if not use_gpu:
        need = replace(need, gpus=0, cpus=scaling.cpus_per_actor, labels=data_labels() or {})
        if grows and config.device == "auto":
            message = "evaluate_fill_mask: this cluster has no GPU and starts none; using CPUs"
            print(message, file=sys.stderr, flush=True)
    room = ensure_capacity(need, job="evaluate_fill_mask", run_dir=folder)
    resources = {"num_gpus": need.gpus} if use_gpu else {"num_cpus": need.cpus}
    if grows:
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=scaling.actors)
    else:
        actors = scaling.actors or room
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)
    return "cuda" if use_gpu else "cpu", pool, resources
