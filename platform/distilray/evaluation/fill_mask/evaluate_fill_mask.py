"""Fill-mask evaluation of a student and, optionally, its teacher, on held-out shards or on files of masked texts."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    answers_name,
    predictions_name,
)
from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.pipeline import score_files
from distilray.evaluation.fill_mask.readers import DataFile, check_file, data_files, limit_rows, read_examples
from distilray.evaluation.fill_mask.scoring import Batch, HeldoutShards, measure_latencies, model_dirs, single_batches
from distilray.evaluation.fill_mask.sentences import (
    SENTENCES_FILE,
    best_answers,
    choose_sentences,
    mask_each_answer,
    mask_each_token,
    sentence_rows,
)
from distilray.evaluation.fill_mask.summary import (
    BOTH,
    SCORES_FILE,
    STUDENT,
    TEACHER,
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
_LISTED_ROWS = 100  # bad rows in quarantine.jsonl
_SHOWN_ROWS = 20  # bad rows printed with the error
_LATENCY_KEYS = ("latency_ms", "latency_p95_ms")

Values = dict[str, Any]


def plan_fill_mask(config: EvaluateFillMaskConfig) -> dict[str, object]:
    """Validate the inputs of `evaluate_fill_mask` and return its plan.

    Raises:
        InputError: an input is missing or invalid, or the models have different tokenizers.
    """
    models = {name: str(folder) for name, folder in model_dirs(config).items()}
    if config.device == "gpu" and config.shards_dir is not None and not torch.cuda.is_available():
        raise InputError(
            "device: gpu, but no GPU is visible to this process; set device=auto or device=cpu, or submit the job with "
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
        f"tokens; chunks of {config.data.chunk_rows:,} rows",
        "left to right": "one more pass for each additional word piece of an answer"
        if config.data.left_to_right
        else "no",
        "causal model": config.causal.model_dir if config.causal else "none",
        "actors": config.scaling.actors or "as many as the CPUs or GPUs allow",
        "estimate": "rows are counted while reading; the log shows rows/s",
        "writes": f"{config.run_dir}/{SCORES_FILE}, {SENTENCES_FILE}, answers/*.parquet, {QUARANTINE_FILE}",
    }


def evaluate_fill_mask(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    """Score the models at all masks; write `scores.json`, `sentences.jsonl` and, for files, the answers.

    Raises:
        InputError: a file is damaged, or none of the rows is usable.
        DataQualityError: the share of unusable rows exceeds `fault_tolerance.max_bad_fraction`.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    return _evaluate_shards(config, folder) if config.data is None else _evaluate_files(config, folder)


def _evaluate_shards(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    shards = HeldoutShards(config)
    costs, mask_scores, answers = {}, {}, {}
    folders = model_dirs(config)
    tokenizer_json = read_tokenizer(folders[STUDENT])
    max_length = min(read_model_config(folder).max_position_embeddings for folder in folders.values())
    rows = (mask_each_token(batch, tokenizer_json) for batch in shards.single_examples())
    sentences = choose_sentences(rows, tokenizer_json, max_length=max_length)
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    for name, model_dir in folders.items():
        model = load_masked_lm(model_dir)
        costs[name] = _costs(model, model_dir, shards.single_batches())
        answers[name] = best_answers(model, sentences, tokenizer_json)
        mask_scores[name] = shards.score(model.to(device), name)
    scores, intervals = summarize_scores(*columns_from_shards(mask_scores), config.bootstrap, seed=config.seed)
    counts: Values = {"examples": shards.examples, "masks": shards.masks}
    _write_rows(folder.path(SENTENCES_FILE), sentence_rows(sentences, answers))
    return _outcome(folder, counts, scores, costs, intervals, data=f"{shards.masks:,} held-out masks", outputs={})


def _evaluate_files(config: EvaluateFillMaskConfig, folder: RunFolder) -> Outcome:
    assert config.data is not None
    files = limit_rows(data_files(config.data), config.data, seed=config.seed, rows=config.max_examples)
    tokenizer_json, max_length = _tokenizer_and_length(config)
    singles = _single_batches(_examples(files, config), config, tokenizer_json, max_length)
    rows = map(mask_each_answer, _examples(files, config))
    sentences = choose_sentences(rows, tokenizer_json, max_length=max_length)
    costs, answers_by_model = {}, {}
    for name, model_dir in model_dirs(config).items():
        model = load_masked_lm(model_dir)
        costs[name] = _costs(model, model_dir, singles)
        answers_by_model[name] = best_answers(model, sentences, tokenizer_json)
    _write_rows(folder.path(SENTENCES_FILE), sentence_rows(sentences, answers_by_model))
    chunks = score_files(files, config, folder.uri, tokenizer_json=tokenizer_json, max_length=max_length)
    records = list(CompletedPieces(folder.uri, CHUNKS).records(chunks))
    bad = _quarantine(config, folder, records)
    answers = pa.concat_tables([_read_table(folder.path(answers_name(chunk))) for chunk in chunks])
    texts, columns = columns_from_answers(answers, list(costs), left_to_right=config.data.left_to_right)
    scores, intervals = summarize_scores(texts, columns, config.bootstrap, seed=config.seed)
    counts: Values = {"examples": int(texts[-1]), "masks": answers.num_rows}
    counts |= {
        "pieces": int(answers.column("pieces").to_numpy().sum()),
        "answers_of_several_pieces": int((answers.column("pieces").to_numpy() > 1).sum()),
        "windows": sum(record["windows"] for record in records),
        "rows": sum(record["rows"] for record in records),
        "bad": bad,
    }
    if config.causal is not None:
        counts["causal_too_short"] = _add_causal_metric(folder, chunks, costs)
    outputs = {answers_name(chunk): record["output"] for chunk, record in zip(chunks, records, strict=True)}
    folder.remove_leftovers(ANSWERS_FOLDER, outputs)
    data = f"{answers.num_rows:,} masks in {counts['examples']:,} texts, {sum(bad.values()):,} bad rows"
    return _outcome(folder, counts, scores, costs, intervals, data=data, outputs=outputs)


def _outcome(
    folder: RunFolder,
    counts: Values,
    scores: Mapping[str, Mapping[str, float | None]],
    costs: Mapping[str, Values],
    intervals: Values,
    *,
    data: str,
    outputs: Values,
) -> Outcome:
    """Write `scores.json` and return the outcome, with latencies kept separate because they vary between runs."""
    totals = {**counts, **scores.get(BOTH, {})}
    models = {name: {**costs[name], **scores[name]} for name in costs}
    bounds = {"intervals": intervals} if intervals else {}
    storage.write_bytes(folder.path(SCORES_FILE), json.dumps({**totals, **models, **bounds}, indent=1).encode())
    hit = models[STUDENT]["hit@10"]
    if TEACHER in models:
        kept = hit / max(models[TEACHER]["hit@10"], 1e-12)
        summary = f"{data}, hit@10 teacher {models[TEACHER]['hit@10']:.3f}, student {hit:.3f} ({kept:.1%} kept)"
    else:
        summary = f"{data}, hit@10 {hit:.3f}"
    timing = {name: {key: model[key] for key in _LATENCY_KEYS if key in model} for name, model in models.items()}
    reproducible = {
        name: {key: value for key, value in model.items() if key not in _LATENCY_KEYS} for name, model in models.items()
    }
    return Outcome(summary, {**totals, **reproducible, **bounds, "timing": timing}, outputs)


def _tokenizer_and_length(config: EvaluateFillMaskConfig) -> tuple[str, int]:
    """Return the tokenizer of the models and the maximum number of tokens in a window.

    Raises:
        InputError: a model is neither a BERT nor a DistilBERT, the tokenizers differ, a tokenizer has more ids than its
            model has embeddings, or `data.max_length` is longer than a model's input.
    """
    assert config.data is not None
    tokenizers, lengths = [], []
    for folder in model_dirs(config).values():
        model_config = read_model_config(folder)
        tokenizers.append(read_tokenizer(folder))
        lengths.append(model_config.max_position_embeddings)
        if model_config.vocab_size < vocabulary_of(tokenizers[-1]).size:
            raise InputError(f"{folder}: the tokenizer has more ids than the model; use files that belong together")
    if len({tokenizer_hash(tokenizer_json) for tokenizer_json in tokenizers}) > 1:
        raise InputError(
            f"{config.teacher_dir} and {config.student_dir}: two tokenizers, whose tokens cannot be compared; "
            "evaluate each model alone, as student_dir"
        )
    max_length = config.data.max_length or min(lengths)
    if max_length > min(lengths):
        raise InputError(f"data.max_length: {max_length} tokens exceed a model's maximum of {min(lengths)}; lower it")
    return tokenizers[0], max_length


def _examples(files: Sequence[DataFile], config: EvaluateFillMaskConfig) -> Iterator[MaskedExample]:
    """Yield the usable rows of the files."""
    assert config.data is not None
    rows = (row for file in files for row in read_examples(file, config.data, seed=config.seed))
    return (row for row in rows if isinstance(row, MaskedExample))


def _single_batches(
    examples: Iterator[MaskedExample], config: EvaluateFillMaskConfig, tokenizer_json: str, max_length: int
) -> list[Batch]:
    """Return the first windows of the data as batches of one."""
    count = config.latency_examples
    windows, _, _ = encode_examples(list(islice(examples, count)), tokenizer_json, max_length=max_length)
    return list(single_batches(windows, count))


def _costs(model: Any, model_dir: str, singles: Sequence[Batch]) -> Values:
    """Return size and latency of a model."""
    weights = storage.file_size(storage.join(model_dir, WEIGHTS_FILE)) or 0
    costs: Values = {"parameters": count_parameters(model), "megabytes": weights / 1e6}
    if singles:
        times = measure_latencies(model, singles)
        costs |= {"latency_ms": statistics.median(times), "latency_p95_ms": percentile(times, 0.95)}
    return costs


def _quarantine(config: EvaluateFillMaskConfig, folder: RunFolder, records: Sequence[Values]) -> dict[str, int]:
    """Write the first bad rows to a file and return their counts by reason; raise if there are too many."""
    bad: Counter[str] = sum((Counter(record["bad"]) for record in records), Counter())
    listed = _write_rows(
        folder.path(QUARANTINE_FILE), [row for record in records for row in record["listed"]][:_LISTED_ROWS]
    )
    rows, limit = sum(record["rows"] for record in records), config.fault_tolerance.max_bad_fraction
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(bad.items()))
    if bad.total() > limit * rows:
        raise DataQualityError(
            f"more rows are unusable than fault_tolerance.max_bad_fraction={limit:g}: "
            f"{bad.total():,} of {rows:,} ({reasons}); the first are listed in {folder.path(QUARANTINE_FILE)}; "
            "fix them, or run again with a larger fraction",
            listed[:_SHOWN_ROWS],
        )
    if bad.total() == rows:
        raise InputError(f"data.path: none of {rows:,} rows is usable ({reasons or 'no row'}); use other files")
    return dict(sorted(bad.items()))


def _write_rows(uri: str, rows: Sequence[Values]) -> list[str]:
    """Write a JSON Lines file and return its lines."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    storage.write_bytes(uri, "".join(f"{line}\n" for line in lines).encode())
    return lines


def _add_causal_metric(folder: RunFolder, chunks: Sequence[int], costs: Mapping[str, Values]) -> dict[str, int]:
    """Add mean and median of the metric to each model; return the number of texts that are too short for it."""
    table = pa.concat_tables([_read_table(folder.path(predictions_name(chunk))) for chunk in chunks])
    too_short = {}
    for name, model in costs.items():
        values = table.column(f"{name}_perplexity").drop_null().to_pylist()
        too_short[name] = table.num_rows - len(values)
        if values:
            model[CAUSAL_METRIC] = statistics.fmean(values)
            model[f"{CAUSAL_METRIC}_median"] = statistics.median(values)
    return too_short


def _read_table(uri: str) -> pa.Table:
    filesystem, path = storage.filesystem(uri)
    with reading(uri):
        return pq.read_table(path, filesystem=filesystem)
