"""Runs a frozen teacher once over all shards and writes what it says beside them, with Ray Data.

A task reads one shard and writes one file of the same name; a run that was interrupted does the shards that are not
complete. The driver sees counts only.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from distilray.config.distillation import CacheTeacherConfig
from distilray.distillation.cost import cache_bytes, format_bytes, format_split_sizes, time_and_cost
from distilray.distillation.inputs import check_shards, refuse_dynamic_masks, teacher_hash
from distilray.distillation.teacher_cache import (
    TARGETS_FOLDER,
    FrozenTeacher,
    cache_content,
    targets_name,
    write_targets,
)
from distilray.errors import InputError
from distilray.models.flops import model_size
from distilray.models.masked_lm import count_parameters, load_masked_lm
from distilray.models.processor import configure_cpu
from distilray.models.sources import localize
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet, read_splits
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.pieces import CompletedPieces, run_pieces
from distilray.runtime.run_folder import RunFolder, read_manifest
from distilray.runtime.session import ray_session

_SPLITS = ("train", "heldout")

Values = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A shard that one task reads.

    Attributes:
        name: as the manifest of the shards has it.
    """

    number: int
    split: str
    name: str
    rows: int


def plan_cache(config: CacheTeacherConfig) -> dict[str, object]:
    """Validates the inputs of `cache_teacher` and says what it would do.

    Raises:
        InputError: an input is missing or not what it should be, masks that are dynamic, or a larger top_k than ids.
    """
    refuse_dynamic_masks(config.shards_dir)
    folder = localize(config.teacher_dir)
    check_shards(config.shards_dir, config.teacher_dir, folder)
    teacher = load_masked_lm(folder)
    size = model_size(teacher)
    if config.top_k > size.vocabulary:
        raise InputError(f"top_k: {config.top_k} tokens, and the teacher has {size.vocabulary:,}; keep fewer")
    splits = _open_splits(config)
    rows, tokens = sum(map(len, splits.values())), sum(found.tokens for found in splits.values())
    sizes = cache_bytes(config.shards_dir, dim=size.dim, top_k=config.top_k, positions=config.positions)
    scaling, at = config.scaling, "every token" if config.positions == "all" else "the masked tokens"
    each = f"{scaling.gpus_per_task:g} GPU" if scaling.gpus_per_task else f"{scaling.cpus_per_task} CPU"
    return {
        "teacher": f"{count_parameters(teacher):,} parameters, {size.layers} layers, dimension {size.dim}",
        "shards": f"{config.shards_dir}: {rows:,} examples, {tokens:,} tokens",
        "targets": f"hidden states of every token, {config.top_k} tokens at {at}, temperature {config.temperature:g}",
        "bytes written": f"about {format_split_sizes(sizes)}",
        "tasks": f"{sum(len(found.names) for found in splits.values()):,} of {each}",
        "time": time_and_cost(config.estimate, tokens, workers=1, measured_rate=_measured_rate),
    }


def cache_teacher(config: CacheTeacherConfig, folder: RunFolder) -> Outcome:
    """Writes the targets of every shard into the run folder."""
    model_dir = localize(config.teacher_dir)
    dim = model_size(load_masked_lm(model_dir)).dim
    tokenizer_json = read_tokenizer(model_dir)
    pieces = _pieces(_open_splits(config))
    with ray_session(config.ray):
        facts = list(_write(pieces, config, vocabulary_of(tokenizer_json).pad))
    outputs = {fact["name"]: fact["output"] for fact in facts}
    folder.remove_strays(TARGETS_FOLDER, outputs)
    counts = {split: _split_counts(facts, split) for split in dict.fromkeys(piece.split for piece in pieces)}
    seconds = sum(fact["seconds"] for fact in facts)
    identity = {"tokenizer_hash": tokenizer_hash(tokenizer_json), "teacher_hash": teacher_hash(model_dir)}
    return Outcome(
        _summary(config, counts),
        {
            **identity,
            "dim": dim,
            **counts,
            "timing": {"tokens_per_s": round(sum(found["tokens"] for found in counts.values()) / seconds, 1)},
        },
        outputs,
    )


def _open_splits(config: CacheTeacherConfig) -> dict[str, ShardSet]:
    there = read_splits(config.shards_dir)
    return {split: ShardSet(config.shards_dir, split) for split in _SPLITS if split in there}


def _pieces(splits: Mapping[str, ShardSet]) -> list[Piece]:
    shards = [
        (split, name, rows)
        for split, found in splits.items()
        for name, rows in zip(found.names, found.shard_rows, strict=True)
    ]
    return [Piece(number, *shard) for number, shard in enumerate(shards)]


def _write(pieces: Sequence[Piece], config: CacheTeacherConfig, pad_id: int) -> Iterator[Values]:
    return run_pieces(
        [asdict(piece) for piece in pieces],
        functools.partial(_write_task, config=config, pad_id=pad_id),
        CompletedPieces(config.run_dir, "files"),
        job="cache_teacher",
        label="cache_teacher",
        unit="examples",
        size=lambda item: int(item["rows"]),
        num_cpus=config.scaling.cpus_per_task,
        num_gpus=config.scaling.gpus_per_task,
        remedy="lower scaling.cpus_per_task, or set scaling.gpus_per_task=0",
    )


def _write_task(item: Values, *, config: CacheTeacherConfig, pad_id: int) -> Values:
    started, piece = time.monotonic(), Piece(**item)
    device = torch.device("cuda" if config.scaling.gpus_per_task else "cpu")
    if device.type == "cpu":
        configure_cpu(config.scaling.cpus_per_task)
    teacher = FrozenTeacher(load_masked_lm(localize(config.teacher_dir)), config, device)
    shards = ShardSet(config.shards_dir, piece.split, verify=True, cache=ShardCache(config.cache), only=[piece.name])
    name = targets_name(piece.name)
    entry = write_targets(shards, teacher, storage.join(config.run_dir, name), pad_id=pad_id)
    kept = entry.pop("kept")
    output = {"split": piece.split, **entry}
    return {"name": name, "output": output, "kept": kept, "seconds": time.monotonic() - started}


def _split_counts(facts: Sequence[Values], split: str) -> Values:
    own = [fact for fact in facts if fact["output"]["split"] == split]
    sums = {name: sum(fact["output"][name] for fact in own) for name in ("rows", "tokens", "positions", "bytes")}
    # Rounded: sums of logarithms differ in their last digits between kinds of CPU.
    kept = sum(fact["kept"] for fact in own) / max(1, sums["positions"])
    return {**sums, "kept_probability": round(kept, 6)}


def _summary(config: CacheTeacherConfig, counts: Mapping[str, Values]) -> str:
    train = counts["train"]
    size = sum(found["bytes"] for found in counts.values())
    return (
        f"{sum(found['rows'] for found in counts.values()):,} examples, {format_bytes(size)}, "
        f"{config.top_k} tokens hold {train['kept_probability']:.1%} of the probability at temperature "
        f"{config.temperature:g}"
    )


def _measured_rate(run_dir: str) -> float:
    """Tokens per second of one task of an earlier run.

    Raises:
        InputError: no complete run of this job.
    """
    cache_content(run_dir)
    return float(read_manifest(run_dir)["run"]["timing"]["tokens_per_s"])
