"""Fill-mask evaluation on held-out text, teacher beside student: what is known, what it costs."""

import json
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.metrics import (
    HITS,
    agreement,
    fill_mask_scores,
    percentile,
    true_token_losses,
    true_token_ranks,
)
from distilray.models.masked_lm import (
    compute_dtype,
    count_parameters,
    encode,
    load_masked_lm,
    vocabulary_logits,
)
from distilray.models.model_source import WEIGHTS_FILE, local_model, model_inputs
from distilray.pretraining_data.batches import Batch, collate, heldout_batches
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.reporting.progress import Progress
from distilray.runtime.run_folder import RunFolder

SCORES_FILE = "scores.json"
MODELS = ("teacher", "student")


@dataclass(frozen=True)
class Scored:
    """One model over all masks: its scores, and its best token at each mask for the agreement."""

    scores: Mapping[str, float]
    best: Tensor


def fill_mask_inputs(config: EvaluateFillMaskConfig) -> dict[str, str]:
    """What `evaluate_fill_mask` reads."""
    teacher, student = model_inputs("teacher", config.teacher_dir), model_inputs("student", config.student_dir)
    return {"shards": config.shards_dir, **teacher, **student}


def plan_fill_mask(config: EvaluateFillMaskConfig) -> dict[str, object]:
    """Validates the inputs of `evaluate_fill_mask` and says what it would do."""
    shards = _heldout(config)
    return {
        "held out": f"{config.shards_dir}: {_examples(shards, config):,} examples, {_masks(shards, config):,} masks",
        **{name: str(_model_dir(config, name)) for name in MODELS},
    }


def evaluate_fill_mask(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    """Scores teacher and student on every held-out example; writes `scores.json`."""
    torch.set_num_threads(os.cpu_count() or 1)
    shards = _heldout(config)
    found: dict[str, dict[str, Any]] = {}
    best: dict[str, Tensor] = {}
    for name in MODELS:
        model = load_masked_lm(_model_dir(config, name))
        weights = storage.join(_model_dir(config, name), WEIGHTS_FILE)
        latencies = _latencies(model, shards, config)
        found[name] = {
            "parameters": count_parameters(model),
            "megabytes": (storage.file_size(weights) or 0) / 1e6,
            "latency_ms": statistics.median(latencies),
            "latency_p95_ms": percentile(latencies, 0.95),
        }
        scored = _score(model, shards, config, name)
        found[name] |= scored.scores
        best[name] = scored.best
    masks = _masks(shards, config)
    summary = {
        "examples": _examples(shards, config),
        "masks": masks,
        "agreement": agreement(best["teacher"], best["student"]),
    }
    storage.write_bytes(folder.path(SCORES_FILE), json.dumps({**summary, **found}, indent=1).encode())
    teacher, student = found["teacher"], found["student"]
    kept = student["hit@10"] / max(teacher["hit@10"], 1e-12)
    timed = ("latency_ms", "latency_p95_ms")
    return Outcome(
        f"{masks:,} held-out masks, hit@10 teacher {teacher['hit@10']:.3f}, student {student['hit@10']:.3f} "
        f"({kept:.1%} kept)",
        {
            **summary,
            **{name: {key: value for key, value in found[name].items() if key not in timed} for name in MODELS},
            "timing": {name: {key: found[name][key] for key in timed} for name in MODELS},
        },
    )


def _model_dir(config: EvaluateFillMaskConfig, name: str) -> str:
    return local_model({"teacher": config.teacher_dir, "student": config.student_dir}[name])


def _heldout(config: EvaluateFillMaskConfig) -> ShardSet:
    """The held-out shards, after a check that both models read the ids of their tokenizer."""
    hashes = [tokenizer_hash(read_tokenizer(_model_dir(config, name))) for name in MODELS]
    ShardSet(config.shards_dir, "heldout", tokenizer_hash=hashes[0])
    return ShardSet(config.shards_dir, "heldout", tokenizer_hash=hashes[1], cache=ShardCache(config.cache))


def _examples(shards: ShardSet, config: EvaluateFillMaskConfig) -> int:
    return min(len(shards), config.max_examples or len(shards))


def _masks(shards: ShardSet, config: EvaluateFillMaskConfig) -> int:
    rows = np.arange(_examples(shards, config))
    return int(shards.mask_counts(rows, np.zeros_like(rows)).sum())


def _fully_masked(batch: Batch, mask_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The batch with `[MASK]` at every predicted position: fill-mask shows the model no original token there."""
    input_ids = torch.from_numpy(batch.input_ids)
    index = torch.from_numpy(batch.mask_index)
    input_ids.view(-1)[index] = mask_id
    attention, types = torch.from_numpy(batch.attention_mask), torch.from_numpy(batch.token_type_ids)
    return input_ids, attention, types, index, torch.from_numpy(batch.mask_labels)


@torch.inference_mode()
def _score(model: Any, shards: ShardSet, config: EvaluateFillMaskConfig, name: str) -> Scored:
    """Ranks and losses of the true token at every mask; only the masks go through the vocabulary head."""
    vocabulary = vocabulary_of(read_tokenizer(_model_dir(config, name)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(config.precision, device)
    model = model.to(device)
    ranks, losses, best = [], [], []
    batches = heldout_batches(shards, batch_size=config.batch_size, pad_id=vocabulary.pad, limit=config.max_examples)
    with Progress(f"evaluate_fill_mask {name}", total=_examples(shards, config), unit="examples") as progress:
        for batch in batches:
            tensors = (tensor.to(device) for tensor in _fully_masked(batch, vocabulary.mask))
            input_ids, attention, types, index, labels = tensors
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                hidden = encode(model, input_ids, attention, types).flatten(0, 1)
            logits = vocabulary_logits(model, hidden[index].float())  # in fp32: logits rounded to bf16 would tie
            ranks.append(true_token_ranks(logits, labels).cpu())
            losses.append(true_token_losses(logits, labels).cpu())
            best.append(logits.argmax(dim=1).cpu())
            progress.advance(len(batch.input_ids))
    return Scored(fill_mask_scores(torch.cat(ranks), torch.cat(losses)), torch.cat(best))


@torch.inference_mode()
def _latencies(model: Any, shards: ShardSet, config: EvaluateFillMaskConfig) -> list[float]:
    """Milliseconds of single examples in fp32 on the CPU, encoder and head at the masks, after one warm-up pass."""
    vocabulary = vocabulary_of(read_tokenizer(_model_dir(config, "student")))
    rows = np.arange(min(len(shards), config.latency_examples))
    found = []
    for row in [0, *rows.tolist()]:
        planned = PlannedRows(rows[row : row + 1], np.zeros(1, np.int64))
        batch = collate(shards, planned, pad_id=vocabulary.pad, multiple=1)
        input_ids, attention, types, index, _ = _fully_masked(batch, vocabulary.mask)
        started = time.perf_counter()
        vocabulary_logits(model, encode(model, input_ids, attention, types).flatten(0, 1)[index])
        found.append((time.perf_counter() - started) * 1e3)
    return found[1:]


def show_scores(folder: RunFolder) -> None:
    """Prints the table of teacher and student from `scores.json`."""
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    teacher, student = scores["teacher"], scores["student"]
    table = Table(title=f"fill-mask on held-out text: {scores['examples']:,} examples, {scores['masks']:,} masks")
    for heading in ("", "teacher", "student", "student / teacher"):
        table.add_column(heading, justify="right" if heading else "left")
    formats = {"parameters": ",.0f", "megabytes": ".1f", "latency_ms": ".1f", "pseudo_perplexity": ".1f"}
    labels = {
        "megabytes": "weights, MB",
        "latency_ms": "latency, ms (CPU, fp32, batch 1)",
        "pseudo_perplexity": "pseudo-perplexity",
        "mrr": "MRR",
    }
    for key in [*(f"hit@{k}" for k in HITS), "mrr", "pseudo_perplexity", "parameters", "megabytes", "latency_ms"]:
        form = formats.get(key, ".3f")
        share = student[key] / teacher[key] if teacher[key] else float("nan")
        table.add_row(labels.get(key, key), f"{teacher[key]:{form}}", f"{student[key]:{form}}", f"{share:.1%}")
    table.add_row("same best token", "", "", f"{scores['agreement']:.1%}")
    Console(width=None if os.isatty(1) else 100).print(table)
