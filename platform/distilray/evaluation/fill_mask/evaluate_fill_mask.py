"""Evaluate fill-mask, teacher beside student, on held-out shards or on texts with masks in files."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.errors import DataQualityError, InputError, reading
from distilray.evaluation.fill_mask.causal import CAUSAL_METRIC
from distilray.evaluation.fill_mask.chunk_scorer import (
    ANSWERS_FOLDER,
    CHUNKS,
    MAX_BATCH_TOKENS,
    PREDICTIONS_FOLDER,
    answers_name,
)
from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.pipeline import score_files
from distilray.evaluation.fill_mask.readers import DataFile, check_file, data_files, limit_rows, read_examples
from distilray.evaluation.fill_mask.scoring import Batch, measure_latencies, model_dirs, single_batches
from distilray.evaluation.fill_mask.summary import (
    BOTH,
    SCORES_FILE,
    STUDENT,
    TEACHER,
    HeldoutShards,
    columns_from_answers,
    columns_from_shards,
    summarize_scores,
)
from distilray.evaluation.fill_mask.windows import encode_examples
from distilray.evaluation.fill_mask_metrics import percentile
from distilray.models.masked_lm import count_parameters, load_masked_lm, read_model_config
from distilray.models.sources import WEIGHTS_FILE
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome, Quantity
from distilray.runtime.pieces import CompletedPieces
from distilray.runtime.run_folder import RunFolder

QUARANTINE_FILE = "quarantine.jsonl"
_LISTED = 100  # bad rows in quarantine.jsonl
_SHOWN = 20  # of them on the terminal when there are too many
_TIMED = ("latency_ms", "latency_p95_ms")

Values = dict[str, Any]


def plan_fill_mask(config: EvaluateFillMaskConfig) -> dict[str, object]:
    """Validates the inputs of `evaluate_fill_mask` and says what it would do.

    Raises:
        InputError: an input is missing, or not what it should be, or models of two tokenizers.
    """
    models = {name: str(folder) for name, folder in model_dirs(config).items()}
    if config.device == "gpu" and config.shards_dir is not None and not torch.cuda.is_available():
        raise InputError(
            "device: gpu, and this process sees none; set device=auto or device=cpu, or submit the job with "
            "--entrypoint-num-gpus 1"
        )
    if config.data is None:
        shards = HeldoutShards(config)
        held_out = f"{config.shards_dir}: {shards.examples:,} examples, {shards.masks:,} masks"
        return {"held out": Quantity(held_out, shards.examples, "examples"), **models}
    files = data_files(config.data)
    for file in files:
        check_file(file, config.data, seed=config.seed)
    _, max_length = _tokenizer_and_length(config)
    size = sum(storage.file_size(file.uri) or 0 for file in files)
    rows = "all rows" if config.max_examples is None else f"the first {config.max_examples:,} rows"
    return {
        "reads": f"{config.data.path}: {rows} of {len(files):,} files ({files[0].format}), {size / 1e6:,.1f} MB",
        **models,
        "windows": f"{max_length} tokens; batches of at most {config.batch_size} windows, {MAX_BATCH_TOKENS:,} "
        f"tokens; parts of {config.data.chunk_rows:,} rows",
        "left to right": "a pass for each further word piece of an answer" if config.data.left_to_right else "no",
        "causal model": config.causal.model_dir if config.causal else "none",
        "actors": config.scaling.actors or "as many as there are CPUs or GPUs for",
        "estimate": "rows are counted while they are read: the log tells rows/s",
        "writes": f"{config.run_dir}/{SCORES_FILE}, answers/*.parquet, {QUARANTINE_FILE}",
    }


def evaluate_fill_mask(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    """Scores the models at every mask; writes `scores.json`, and for files the answers one by one.

    Raises:
        InputError: a file of the data cannot be read to its end, or none of its rows can be used.
        DataQualityError: more rows cannot be used than `fault_tolerance.max_bad_fraction`.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    return _on_shards(config, folder) if config.data is None else _on_files(config, folder)


def _on_shards(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    shards = HeldoutShards(config)
    costs, found = {}, {}
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    for name, model_dir in model_dirs(config).items():
        model = load_masked_lm(model_dir)
        costs[name] = _costs(model, model_dir, shards.single_batches())
        found[name] = shards.score(model.to(device), name)
    scores, intervals = summarize_scores(*columns_from_shards(found), config.bootstrap, seed=config.seed)
    counts: Values = {"examples": shards.examples, "masks": shards.masks}
    return _outcome(folder, counts, scores, costs, intervals, told=f"{shards.masks:,} held-out masks", outputs={})


def _on_files(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    assert config.data is not None
    files = limit_rows(data_files(config.data), config.data, seed=config.seed, rows=config.max_examples)
    tokenizer_json, max_length = _tokenizer_and_length(config)
    costs, singles = {}, _single_batches(files, config, tokenizer_json, max_length)
    for name, model_dir in model_dirs(config).items():
        costs[name] = _costs(load_masked_lm(model_dir), model_dir, singles)
    parts = score_files(files, config, folder.uri, tokenizer_json=tokenizer_json, max_length=max_length)
    facts = list(CompletedPieces(folder.uri, CHUNKS).records(parts))
    bad = _quarantined(config, folder, facts)
    answers = pa.concat_tables([_read(folder.path(answers_name(part))) for part in parts])
    texts, columns = columns_from_answers(answers, list(costs), left_to_right=config.data.left_to_right)
    scores, intervals = summarize_scores(texts, columns, config.bootstrap, seed=config.seed)
    counts: Values = {"examples": int(texts[-1]), "masks": answers.num_rows}
    counts |= {
        "pieces": int(answers.column("pieces").to_numpy().sum()),
        "answers_of_several_pieces": int((answers.column("pieces").to_numpy() > 1).sum()),
        "windows": sum(fact["windows"] for fact in facts),
        "rows": sum(fact["rows"] for fact in facts),
        "bad": bad,
    }
    if config.causal is not None:
        counts["causal_too_short"] = _add_causal(folder, parts, costs)
    outputs = {answers_name(part): fact["output"] for part, fact in zip(parts, facts, strict=True)}
    folder.remove_strays(ANSWERS_FOLDER, outputs)
    told = f"{answers.num_rows:,} masks in {counts['examples']:,} texts, {sum(bad.values()):,} bad rows"
    return _outcome(folder, counts, scores, costs, intervals, told=told, outputs=outputs)


def _outcome(
    folder: RunFolder,
    counts: Values,
    scores: Mapping[str, Mapping[str, float | None]],
    costs: Mapping[str, Values],
    intervals: Values,
    *,
    told: str,
    outputs: Values,
) -> Outcome:
    summary = {**counts, **scores.get(BOTH, {})}
    models = {name: {**costs[name], **scores[name]} for name in costs}
    extent = {"intervals": intervals} if intervals else {}
    storage.write_bytes(folder.path(SCORES_FILE), json.dumps({**summary, **models, **extent}, indent=1).encode())
    hit = models[STUDENT]["hit@10"]
    if TEACHER in models:
        kept = hit / max(models[TEACHER]["hit@10"], 1e-12)
        told += f", hit@10 teacher {models[TEACHER]['hit@10']:.3f}, student {hit:.3f} ({kept:.1%} kept)"
    else:
        told += f", hit@10 {hit:.3f}"
    timing = {name: {key: found[key] for key in _TIMED if key in found} for name, found in models.items()}
    lasting = {
        name: {key: value for key, value in found.items() if key not in _TIMED} for name, found in models.items()
    }
    return Outcome(told, {**summary, **lasting, **extent, "timing": timing}, outputs)


def _tokenizer_and_length(config: EvaluateFillMaskConfig) -> tuple[str, int]:
    """The tokenizer of all models, and the tokens of a window.

    Raises:
        InputError: no config of a BERT or DistilBERT, two tokenizers, a vocabulary that a model does not have, or a
            window that one cannot read.
    """
    assert config.data is not None
    tokenizers, lengths = [], []
    for folder in model_dirs(config).values():
        model_config = read_model_config(folder)
        tokenizers.append(read_tokenizer(folder))
        lengths.append(model_config.max_position_embeddings)
        if model_config.vocab_size < vocabulary_of(tokenizers[-1]).size:
            raise InputError(f"{folder}: its tokenizer has more ids than the model; name a folder whose files fit")
    if len({tokenizer_hash(found) for found in tokenizers}) > 1:
        raise InputError(
            f"{config.teacher_dir} and {config.student_dir}: two tokenizers, whose tokens cannot be compared; "
            "evaluate each model alone, as student_dir"
        )
    longest = config.data.max_length or min(lengths)
    if longest > min(lengths):
        raise InputError(f"data.max_length: {longest} tokens, and a model reads {min(lengths)}; lower it")
    return tokenizers[0], longest


def _single_batches(
    files: Sequence[DataFile], config: EvaluateFillMaskConfig, tokenizer_json: str, max_length: int
) -> list[Batch]:
    """The first windows of the data, each a batch of its own."""
    assert config.data is not None
    rows = (row for file in files for row in read_examples(file, config.data, seed=config.seed))
    wanted = config.latency_examples
    first = list(islice((row for row in rows if isinstance(row, MaskedExample)), wanted))
    windows, _, _ = encode_examples(first, tokenizer_json, max_length=max_length)
    return list(single_batches(windows, wanted))


def _costs(model: Any, model_dir: str, singles: Sequence[Batch]) -> Values:
    """Size and latency of a model."""
    weights = storage.file_size(storage.join(model_dir, WEIGHTS_FILE)) or 0
    found: Values = {"parameters": count_parameters(model), "megabytes": weights / 1e6}
    if singles:
        times = measure_latencies(model, singles)
        found |= {"latency_ms": statistics.median(times), "latency_p95_ms": percentile(times, 0.95)}
    return found


def _quarantined(config: EvaluateFillMaskConfig, folder: RunFolder, facts: Sequence[Values]) -> dict[str, int]:
    """Bad rows by reason; writes the first of them down, and fails when they are too many."""
    bad: Counter[str] = sum((Counter(fact["bad"]) for fact in facts), Counter())
    listed = [json.dumps(entry, ensure_ascii=False) for fact in facts for entry in fact["listed"]][:_LISTED]
    storage.write_bytes(folder.path(QUARANTINE_FILE), "".join(f"{line}\n" for line in listed).encode())
    rows, limit = sum(fact["rows"] for fact in facts), config.fault_tolerance.max_bad_fraction
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(bad.items()))
    if bad.total() > limit * rows:
        raise DataQualityError(
            f"more bad rows than fault_tolerance.max_bad_fraction={limit:g}: {bad.total():,} of {rows:,} "
            f"({reasons}); "
            f"the first are listed in {folder.path(QUARANTINE_FILE)}; mend them, or run again with a larger fraction",
            listed[:_SHOWN],
        )
    if bad.total() == rows:
        raise InputError(f"data.path: none of {rows:,} rows can be used ({reasons or 'no row'}); give other files")
    return dict(sorted(bad.items()))


def _add_causal(folder: RunFolder, parts: Sequence[int], costs: Mapping[str, Values]) -> dict[str, int]:
    """Adds the metric of each model, mean and median over the texts; gives the texts that are too short for it."""
    table = pa.concat_tables([_read(folder.path(PREDICTIONS_FOLDER, f"{part:09d}.parquet")) for part in parts])
    too_short = {}
    for name, found in costs.items():
        values = table.column(f"{name}_perplexity").drop_null().to_pylist()
        too_short[name] = table.num_rows - len(values)
        if values:
            found[CAUSAL_METRIC], found[f"{CAUSAL_METRIC}_median"] = statistics.fmean(values), statistics.median(values)
    return too_short


def _read(uri: str) -> pa.Table:
    found, path = storage.filesystem(uri)
    with reading(uri):
        return pq.read_table(path, filesystem=found)
