"""Ray Data pipeline that scores files: tasks read and tokenize, a pool of actors runs the models.

One task reads a file and yields it in chunks; an actor scores each chunk and writes its answers. After an interruption
the files are read again, and only the chunks that are not complete are scored.
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

_READERS = 2  # files read concurrently; reading is much faster than scoring

Values = dict[str, Any]


def score_files(
    files: Sequence[DataFile], config: EvaluateFillMaskConfig, folder: str, *, tokenizer_json: str, max_length: int
) -> list[int]:
    """Score all files, write the answers to the run folder, and return the chunk numbers in order.

    Raises:
        InputError: a file is damaged, or the cluster has no room for an actor.
    """
    remaining = _incomplete_files(folder, files)
    if remaining:
        read = functools.partial(
            _read_task, config=config, folder=folder, tokenizer_json=tokenizer_json, max_length=max_length
        )
        with ray_session(config.ray):
            _run(remaining, read, config, folder)
    if incomplete := _incomplete_files(folder, files):
        raise RuntimeError(f"all tasks have finished, but chunks of {incomplete[0].name} are missing")
    return [chunk for chunks in _chunks_by_file(folder, files).values() for chunk in chunks]


def _incomplete_files(folder: str, files: Sequence[DataFile]) -> list[DataFile]:
    read, done = (CompletedPieces(folder, stage).numbers() for stage in (FILES, CHUNKS))
    chunks = _chunks_by_file(folder, [file for file in files if file.number in read])
    return [file for file in files if file.number not in chunks or not done.issuperset(chunks[file.number])]


def _chunks_by_file(folder: str, files: Sequence[DataFile]) -> dict[int, range]:
    """Return the chunk numbers of completely read files, by file number."""
    numbers = [file.number for file in files]
    records = CompletedPieces(folder, FILES).records(numbers)
    return {number: chunk_numbers(number, record["chunks"]) for number, record in zip(numbers, records, strict=True)}


def _run(files: Sequence[DataFile], read: Any, config: EvaluateFillMaskConfig, folder: str) -> None:
    completed = CompletedPieces(folder, CHUNKS)
    device, pool, resources = _pool(config, folder)
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    original = (context.target_max_block_size, options.preserve_order, options.label_selector)
    # With a block size of 1 byte each chunk is a block and is passed on immediately.
    context.target_max_block_size, options.preserve_order = 1, False
    options.label_selector = None if device == "cuda" else data_labels()
    try:
        items = [{"item": asdict(file)} for file in files]
        chunks = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            read,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0,  # the actors reserve all CPUs, and reading needs little
            compute=ray.data.TaskPoolStrategy(size=min(_READERS, len(items))),
        )
        scored = chunks.map_batches(
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
            for chunk in result_rows(scored):
                rows, bad = rows + chunk["rows"], bad + chunk["bad"]
                progress.advance_to(rows, f"{bad:,} bad rows")
    finally:
        context.target_max_block_size, options.preserve_order, options.label_selector = original


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
    """Ray Data actor around `ChunkScorer`; each block is a chunk."""

    def __init__(self, config: EvaluateFillMaskConfig, folder: str, device: str, on_cluster: bool) -> None:
        self._failure: pa.Table | None = None  # error of the constructor, which Ray Data would not report in one line
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
    """Return the device of the actors, their pool, and the resources of each actor.

    A local pool starts with all actors; inside a cluster, the pool starts with one and grows with the cluster.

    Raises:
        InputError: the cluster can never provide the resources, or a node has no access to the run folder.
    """
    scaling, on_cluster = config.scaling, inside_cluster()
    need = Need(
        "actor",
        "lower scaling.actors or the resources of each, or set device=cpu",
        gpus=scaling.gpus_per_actor,
        count=1 if on_cluster else scaling.actors or 1,
    )
    use_gpu = config.device == "gpu" or (config.device == "auto" and can_be_satisfied(replace(need, count=1)))
    if not use_gpu:
        need = replace(need, gpus=0, cpus=scaling.cpus_per_actor, labels=data_labels() or {})
        if on_cluster and config.device == "auto":
            message = "evaluate_fill_mask: this cluster has no GPU and cannot start one; using CPUs"
            print(message, file=sys.stderr, flush=True)
    room = ensure_capacity(need, job="evaluate_fill_mask", run_dir=folder)
    resources = {"num_gpus": need.gpus} if use_gpu else {"num_cpus": need.cpus}
    if on_cluster:
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=scaling.actors)
    else:
        actors = scaling.actors or room
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)
    return "cuda" if use_gpu else "cpu", pool, resources
