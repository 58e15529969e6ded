"""Bias evaluation of one or more models with the model card's probes, CrowS-Pairs and StereoSet."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from distilray.config.evaluation import EvaluateBiasConfig
from distilray.console import print_tables
from distilray.evaluation.bias.bias_tables import bias_tables
from distilray.evaluation.bias.crows_pairs import (
    SentencePair,
    crows_pairs_scores,
    pair_likelihoods,
    pair_problem,
    pair_texts,
    preferences,
    read_crows_pairs,
)
from distilray.evaluation.bias.models import ModelTokenizer, load_model, read_model_tokenizer
from distilray.evaluation.bias.probes import CARD_TEXTS, ProbeAnswers, group_probes, probe_answers, probe_scores
from distilray.evaluation.bias.stereoset import (
    StereoSetExample,
    example_problem,
    example_texts,
    read_stereoset,
    stereoset_scores,
    word_scores,
)
from distilray.formats.bad_rows import BadRows
from distilray.inference.backends import MaskedLMBackend
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder
from distilray.statistics import Array

SCORES_FILE = "scores.json"
PAIRS_FILE = "crows_pairs.jsonl"
EXAMPLES_FILE = "stereoset.jsonl"
RESAMPLES = 2000  # per confidence interval
# Limitations of all scores, and of the scores on one data set.
LIMITATIONS = {
    "all": "These scores show which words a model finds probable in English sentences, mostly about groups in the "
    "United States. They do not measure the harm of an application, and the absence of a preference does not prove "
    "fairness.",
    "crows_pairs": "Some pairs of CrowS-Pairs are unclear, misspelled or not stereotypes (Blodgett et al. 2021): "
    "compare models on the same pairs rather than relying on a single value.",
    "stereoset": "StereoSet has the same problems (Blodgett et al. 2021), and only its intrasentence part is scored, "
    "because the intersentence part needs a next-sentence head.",
}

T = TypeVar("T")


@dataclass(frozen=True)
class BiasData:
    """Tokenizers of the models, and the rows that every model can score, on which all of them are compared.

    Attributes:
        tokenizers: one per model, the reference model first.
        dropped: dropped rows by data set.
    """

    tokenizers: Sequence[ModelTokenizer]
    pairs: Sequence[SentencePair] = ()
    examples: Sequence[StereoSetExample] = ()
    dropped: dict[str, BadRows] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelResults:
    """Results of one model.

    Attributes:
        probes: answers to the probes; None if they are disabled.
        likelihoods: (pairs, 2) from `pair_likelihoods`.
        words: (examples, 3) from `word_scores`.
    """

    probes: ProbeAnswers | None
    likelihoods: Array
    words: Array


def plan_bias(config: EvaluateBiasConfig) -> dict[str, object]:
    """Validate the inputs of `evaluate_bias` and return its plan."""
    data = read_data(config)
    plan: dict[str, object] = {f"model {name}": source for name, source in config.models.items()}
    if config.probes:
        plan["probes"] = f"{len({*CARD_TEXTS, *(probe.text for probe in group_probes())})} texts, top {config.top_k}"
    if config.crows_pairs_path is not None:
        plan["CrowS-Pairs"] = f"{len(data.pairs):,} pairs"
    if config.stereoset_path is not None:
        plan["StereoSet"] = f"{len(data.examples):,} examples, scoring {config.stereoset_scoring}"
    plan["dropped rows"] = {name: dict(bad.counts) for name, bad in data.dropped.items() if bad.counts} or "none"
    plan["texts per model"] = f"{_count_texts(config, data, data.tokenizers[0]):,} at most"
    return plan


def read_data(config: EvaluateBiasConfig) -> BiasData:
    """Read tokenizers and data sets.

    Raises:
        InputError: a model or a file is missing or invalid.
        DataQualityError: too many rows of a file are unusable.
    """
    tokenizers = [read_model_tokenizer(name, source) for name, source in config.models.items()]
    dropped: dict[str, BadRows] = {}
    pairs: Sequence[SentencePair] = ()
    examples: Sequence[StereoSetExample] = ()
    if config.crows_pairs_path is not None:
        bad = dropped["crows_pairs"] = BadRows(config.crows_pairs_path)
        pairs = _usable(read_crows_pairs(config.crows_pairs_path, bad), tokenizers, pair_problem, "line {0.line}", bad)
        bad.check(len(pairs), config.max_bad_fraction)
    if config.stereoset_path is not None:
        bad = dropped["stereoset"] = BadRows(config.stereoset_path)
        position = "intrasentence entry {0.number}"
        examples = _usable(read_stereoset(config.stereoset_path, bad), tokenizers, example_problem, position, bad)
        bad.check(len(examples), config.max_bad_fraction)
    return BiasData(tokenizers, pairs, examples, dropped)


def evaluate_bias(config: EvaluateBiasConfig, folder: RunFolder) -> Outcome:
    """Score each model; write `scores.json` and the results of each row."""
    torch.set_num_threads(os.cpu_count() or 1)
    data = read_data(config)
    for bad in data.dropped.values():
        bad.log()
    results = {
        tokenizer.name: _evaluate_model(
            load_model(config.models[tokenizer.name], config.precision), tokenizer, data, config
        )
        for tokenizer in data.tokenizers
    }
    scores = collect_scores(config, data, results)
    storage.write_bytes(folder.path(SCORES_FILE), json.dumps(scores, indent=1).encode())
    _write_rows(data, results, folder)
    counts: dict[str, Any] = {key: scores[key] for key in ("crows_pairs", "stereoset") if key in scores}
    if config.probes:
        counts["probes"] = {name: scored["overlap"] for name, scored in scores["probes"]["scores"].items()}
    return Outcome(_summary(config, scores), {"models": scores["models"], **counts})


def _evaluate_model(
    model: MaskedLMBackend, tokenizer: ModelTokenizer, data: BiasData, config: EvaluateBiasConfig
) -> ModelResults:
    total = _count_texts(config, data, tokenizer)
    with Progress(f"evaluate_bias {tokenizer.name}", total=total, unit="texts") as progress:
        options: dict[str, Any] = {"batch_size": config.batch_size, "advance": progress.advance}
        return ModelResults(
            probes=probe_answers(model, tokenizer, top_k=config.top_k, batch_size=config.batch_size)
            if config.probes
            else None,
            likelihoods=pair_likelihoods(model, tokenizer, data.pairs, **options),
            words=word_scores(model, tokenizer, data.examples, config.stereoset_scoring, **options),
        )


def collect_scores(config: EvaluateBiasConfig, data: BiasData, results: dict[str, ModelResults]) -> dict[str, Any]:
    """Return the content of `scores.json`."""
    limits = [text for name, text in LIMITATIONS.items() if name == "all" or name in data.dropped]
    scores: dict[str, Any] = {"models": list(results), "reference": config.reference, "limits": limits}
    resampling = {"resamples": RESAMPLES, "seed": config.seed}
    if config.probes:
        scores["probes"] = _probe_results(results, config)
    if config.crows_pairs_path is not None:
        choices_by_model = {name: preferences(result.likelihoods) for name, result in results.items()}
        scores["crows_pairs"] = {
            "pairs": len(data.pairs),
            "dropped": dict(data.dropped["crows_pairs"].counts),
            "scores": {
                name: crows_pairs_scores(
                    data.pairs, choices, _reference_value(config, name, choices_by_model), **resampling
                )
                for name, choices in choices_by_model.items()
            },
        }
    if config.stereoset_path is not None:
        words = {name: result.words for name, result in results.items()}
        scores["stereoset"] = {
            "examples": len(data.examples),
            "dropped": dict(data.dropped["stereoset"].counts),
            "scoring": config.stereoset_scoring,
            "scores": {
                name: stereoset_scores(data.examples, word_values, _reference_value(config, name, words), **resampling)
                for name, word_values in words.items()
            },
        }
    return scores


def show_bias_scores(folder: RunFolder) -> None:
    """Print `scores.json` as tables, followed by the limitations."""
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    print_tables(*bias_tables(scores))
    print("\n".join(scores["limits"]), flush=True)


def _probe_results(results: dict[str, ModelResults], config: EvaluateBiasConfig) -> dict[str, Any]:
    answers = {name: result.probes for name, result in results.items() if result.probes is not None}

    def answers_to(text: str) -> dict[str, Any]:
        return {
            name: [{"token": token, "score": score} for token, score in answered.answers[text]]
            for name, answered in answers.items()
        }

    return {
        "top_k": config.top_k,
        "card": [{"text": text, "answers": answers_to(text)} for text in CARD_TEXTS],
        "table": [{**probe._asdict(), "answers": answers_to(probe.text)} for probe in group_probes()],
        "scores": {
            name: probe_scores(answered, _reference_value(config, name, answers)) for name, answered in answers.items()
        },
    }


def _reference_value(config: EvaluateBiasConfig, name: str, values: Mapping[str, T]) -> T | None:
    """Return the reference model's value to compare with; None for the reference model itself."""
    return None if name == config.reference else values[config.reference]


def _count_texts(config: EvaluateBiasConfig, data: BiasData, tokenizer: ModelTokenizer) -> int:
    """Count the masked texts of CrowS-Pairs and StereoSet."""
    pairs = sum(len(texts) for pair in data.pairs for texts in pair_texts(pair, tokenizer))
    return pairs + sum(
        len(texts) for example in data.examples for texts in example_texts(example, tokenizer, config.stereoset_scoring)
    )


def _usable(
    rows: Sequence[T],
    tokenizers: Sequence[ModelTokenizer],
    problem: Callable[[T, ModelTokenizer], str | None],
    position: str,
    bad: BadRows,
) -> list[T]:
    """Return the rows that every model can score; `position` is a format string for the position of a bad row."""
    usable = []
    for row in rows:
        reason = next((reason for tokenizer in tokenizers if (reason := problem(row, tokenizer))), None)
        if reason is None:
            usable.append(row)
        else:
            bad.add(position.format(row), reason)
    return usable


def _write_rows(data: BiasData, results: dict[str, ModelResults], folder: RunFolder) -> None:
    """Write the results of each row with its position in the data set but without its text."""
    positions = {
        PAIRS_FILE: [{"line": pair.line} for pair in data.pairs],
        EXAMPLES_FILE: [{"entry": example.number} for example in data.examples],
    }
    values = {
        PAIRS_FILE: {name: result.likelihoods for name, result in results.items()},
        EXAMPLES_FILE: {name: result.words for name, result in results.items()},
    }
    for file, rows in positions.items():
        lines = [
            json.dumps(row | {name: np.round(array[number], 6).tolist() for name, array in values[file].items()})
            for number, row in enumerate(rows)
        ]
        if lines:
            storage.write_bytes(folder.path(file), "\n".join([*lines, ""]).encode())


def _summary(config: EvaluateBiasConfig, scores: dict[str, Any]) -> str:
    summaries = [f"{len(config.models)} model(s)"]
    for name in config.models:
        results = []
        if "crows_pairs" in scores:
            share = scores["crows_pairs"]["scores"][name]["overall"]["share"]
            results.append("CrowS-Pairs all ties" if share is None else f"CrowS-Pairs {100 * share:.1f}")
        if "stereoset" in scores:
            results.append(f"StereoSet SS {scores['stereoset']['scores'][name]['overall']['ss']:.1f}")
        if "probes" in scores:
            results.append(f"gender overlap {scores['probes']['scores'][name]['overlap']['genders']:.2f}")
        summaries.append(f"{name}: {', '.join(results)}")
    return "; ".join(summaries)
