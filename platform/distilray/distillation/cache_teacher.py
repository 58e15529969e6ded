"""Teacher caching with Ray Data: runs a frozen teacher over all shards and stores its outputs next to them.

Each task reads one shard and writes one file of the same name. The tasks run in actors, which load the teacher once.
An interrupted run resumes with the shards that are not complete. The driver only receives counts.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from distilray.config.cache_teacher import CacheTeacherConfig
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
from distilray.models.precision import configure_arithmetic
from distilray.models.processor import configure_cpu
from distilray.models.sources import localize
from distilray.pretraining_data.encoded_chunks import SPLITS
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet, read_splits
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.pieces import CompletedPieces, run_pieces
from distilray.runtime.run_folder import RunFolder, read_manifest
from distilray.runtime.session import ray_session
from distilray.schemas import TEACHER_TARGETS, schema_name

Values = dict[str, Any]


@dataclass(frozen=True)
class ShardTask:
    """Input of one task: a shard.

    Attributes:
        name: name in the manifest of the shards.
    """

    number: int
    split: str
    name: str
    rows: int


def plan_cache(config: CacheTeacherConfig) -> dict[str, object]:
    """Validate the inputs of `cache_teacher` and describe the run.

    Raises:
        InputError: an input is missing or invalid, masks are dynamic, or top_k exceeds the vocabulary.
    """
    refuse_dynamic_masks(config.shards_dir)
    folder = localize(config.teacher_dir)
    check_shards(config.shards_dir, config.teacher_dir, folder)
    teacher = load_masked_lm(folder)
    size = model_size(teacher)
    if config.top_k + config.samples >= size.vocabulary + (config.samples == 0):
        raise InputError(
            f"top_k: {config.top_k} with {config.samples} samples exceeds the teacher's vocabulary of "
            f"{size.vocabulary:,} tokens; lower it"
        )
    splits = _open_splits(config)
    rows, tokens = sum(map(len, splits.values())), sum(shards.tokens for shards in splits.values())
    sizes = cache_bytes(
        config.shards_dir,
        dim=size.dim,
        stored=config.top_k + config.samples,
        positions=config.positions,
        hidden_states=config.hidden_states,
    )
    scaling, at = config.scaling, "every token" if config.positions == "all" else "the masked tokens"
    device = f"{scaling.gpus_per_task:g} GPU" if scaling.gpus_per_task else f"{scaling.cpus_per_task} CPU"
    return {
        "teacher": f"{count_parameters(teacher):,} parameters, {size.layers} layers, dimension {size.dim}",
        "shards": f"{config.shards_dir}: {rows:,} examples, {tokens:,} tokens",
        "targets": f"{'hidden states of every token, ' if config.hidden_states else ''}{config.top_k} tokens "
        f"and {config.samples} samples at {at}, "
        f"temperature {config.temperature:g}",
        "bytes written": f"about {format_split_sizes(sizes)}",
        "tasks": f"{sum(len(shards.names) for shards in splits.values()):,} of {device}",
        "time": time_and_cost(config.estimate, tokens, workers=1, measured_rate=_measured_rate),
    }


def cache_teacher(config: CacheTeacherConfig, folder: RunFolder) -> Outcome:
    """Write the targets of every shard into the run folder."""
    model_dir = localize(config.teacher_dir)
    dim = model_size(load_masked_lm(model_dir)).dim
    tokenizer_json = read_tokenizer(model_dir)
    tasks = _shard_tasks(_open_splits(config))
    with ray_session(config.ray):
        results = list(_run_tasks(tasks, config, vocabulary_of(tokenizer_json).pad))
    outputs = {result["name"]: result["output"] for result in results}
    folder.remove_leftovers(TARGETS_FOLDER, outputs)
    counts = {split: _split_counts(results, split) for split in dict.fromkeys(task.split for task in tasks)}
    tokens, seconds = (sum(entry["tokens"] for entry in counts.values()), sum(result["seconds"] for result in results))
    identity = {"tokenizer_hash": tokenizer_hash(tokenizer_json), "teacher_hash": teacher_hash(model_dir)}
    return Outcome(
        _summary(config, counts),
        {
            "schema": schema_name(TEACHER_TARGETS),
            **identity,
            "dim": dim,
            **counts,
            "timing": {"tokens_per_s": round(tokens / seconds, 1)},
        },
        outputs,
    )


def _open_splits(config: CacheTeacherConfig) -> dict[str, ShardSet]:
    present = read_splits(config.shards_dir)
    return {split: ShardSet(config.shards_dir, split) for split in SPLITS if split in present}


def _shard_tasks(splits: Mapping[str, ShardSet]) -> list[ShardTask]:
    rows_by_shard = [
        (split, name, rows)
        for split, shards in splits.items()
        for name, rows in zip(shards.names, shards.shard_rows, strict=True)
    ]
    return [ShardTask(number, *shard) for number, shard in enumerate(rows_by_shard)]


def _run_tasks(tasks: Sequence[ShardTask], config: CacheTeacherConfig, pad_id: int) -> Iterator[Values]:
    return run_pieces(
        [asdict(task) for task in tasks],
        _CacheShard(config, pad_id),
        CompletedPieces(config.run_dir, "files"),
        job="cache_teacher",
        label="cache_teacher",
        unit="examples",
        size=lambda item: int(item["rows"]),
        num_cpus=config.scaling.cpus_per_task,
        num_gpus=config.scaling.gpus_per_task,
        actors=True,
        remedy="lower scaling.cpus_per_task, or set scaling.gpus_per_task=0",
    )


@dataclass(frozen=True)
class _CacheShard:
    """Task that writes the targets of a shard. It loads the teacher for its first shard and keeps it."""

    config: CacheTeacherConfig
    pad_id: int

    @functools.cached_property
    def _teacher(self) -> FrozenTeacher:
        scaling = self.config.scaling
        device = torch.device("cuda" if scaling.gpus_per_task else "cpu")
        if device.type == "cpu":
            configure_cpu(scaling.cpus_per_task)
        configure_arithmetic(device, deterministic=False)
        return FrozenTeacher(load_masked_lm(localize(self.config.teacher_dir)), self.config, device)

    def __call__(self, item: Values) -> Values:
        teacher, config, task = self._teacher, self.config, ShardTask(**item)
        started = time.monotonic()
        shards = ShardSet(config.shards_dir, task.split, verify=True, cache=ShardCache(config.cache), only=[task.name])
        name = targets_name(task.name)
        entry = write_targets(shards, teacher, storage.join(config.run_dir, name), pad_id=self.pad_id)
        kept = entry.pop("kept")
        output = {"split": task.split, **entry}
        return {"name": name, "output": output, "kept": kept, "seconds": time.monotonic() - started}


def _split_counts(results: Sequence[Values], split: str) -> Values:
    in_split = [result for result in results if result["output"]["split"] == split]
    sums = {
        name: sum(result["output"][name] for result in in_split) for name in ("rows", "tokens", "positions", "bytes")
    }
    kept = sum(result["kept"] for result in in_split) / max(1, sums["positions"])
    # Rounded because the last digits of sums of logarithms depend on the CPU type.
    return {**sums, "kept_probability": round(kept, 6)}


def _summary(config: CacheTeacherConfig, counts: Mapping[str, Values]) -> str:
    examples, size = (sum(entry[name] for entry in counts.values()) for name in ("rows", "bytes"))
    return (
        f"{examples:,} examples, {format_bytes(size)}, top {config.top_k} tokens hold "
        f"{counts['train']['kept_probability']:.1%} of the probability at temperature {config.temperature:g}"
    )


def _measured_rate(run_dir: str) -> float:
    """Return the tokens per second of one task in an earlier run.

    Raises:
        InputError: the run is incomplete or belongs to another job.
    """
    cache_content(run_dir)
    return float(read_manifest(run_dir)["run"]["timing"]["tokens_per_s"])
