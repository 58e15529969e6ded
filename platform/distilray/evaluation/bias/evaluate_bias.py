"""Bias evaluation: the card's probes, CrowS-Pairs and StereoSet, for one model beside others."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console

from distilray.config.evaluation import EvaluateBiasConfig
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
BOOTSTRAP_SAMPLES = 2000  # of every 95 per cent interval
# What a reader of the scores must know: of all of them, and of those of a data set.
LIMITS = {
    "all": "These scores say which words a model finds probable in English sentences, mostly about groups in the "
    "United States. They do not say what harm a use of it does, and no preference is no proof of fairness.",
    "crows_pairs": "CrowS-Pairs has pairs that are unclear, misspelt or no stereotype (Blodgett et al. 2021): read the "
    "difference between models on the same pairs rather than the value of one.",
    "stereoset": "StereoSet has such entries too (Blodgett et al. 2021), and only its intrasentence part is scored: "
    "the intersentence part needs a next-sentence head.",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """What is scored: the rows that all models can score, so that all are compared on the same.

    Attributes:
        subjects: the models, the reference first.
        dropped: by data set, how many rows were left out for which reason.
    """

    subjects: Sequence[ModelTokenizer]
    pairs: Sequence[SentencePair] = ()
    examples: Sequence[StereoSetExample] = ()
    dropped: dict[str, BadRows] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What one model was found to say."""

    probes: ProbeAnswers | None
    likelihoods: Array
    words: Array


def plan_bias(config: EvaluateBiasConfig) -> dict[str, object]:
    """Validates the inputs of `evaluate_bias` and says what it would do."""
    material = read_material(config)
    plan: dict[str, object] = {f"model {name}": source for name, source in config.models.items()}
    if config.probes:
        plan["probes"] = f"{len({*CARD_TEXTS, *(probe.text for probe in group_probes())})} texts, top {config.top_k}"
    if config.crows_pairs_path is not None:
        plan["CrowS-Pairs"] = f"{len(material.pairs):,} pairs"
    if config.stereoset_path is not None:
        plan["StereoSet"] = f"{len(material.examples):,} examples, scoring {config.stereoset_scoring}"
    plan["left out"] = {name: dict(bad.counts) for name, bad in material.dropped.items() if bad.counts} or "nothing"
    plan["texts a model"] = f"{_texts(config, material, material.subjects[0]):,} at most"
    return plan


def read_material(config: EvaluateBiasConfig) -> Material:
    """Tokenizers and rows.

    Raises:
        InputError: a model or a file is not what it should be.
        DataQualityError: too many rows of a file cannot be used.
    """
    subjects = [read_model_tokenizer(name, source) for name, source in config.models.items()]
    dropped: dict[str, BadRows] = {}
    pairs: Sequence[SentencePair] = ()
    examples: Sequence[StereoSetExample] = ()
    if config.crows_pairs_path is not None:
        bad = dropped["crows_pairs"] = BadRows(config.crows_pairs_path)
        pairs = _usable(read_crows_pairs(config.crows_pairs_path, bad), subjects, pair_problem, "line {0.line}", bad)
        bad.check(len(pairs), config.max_bad_fraction)
    if config.stereoset_path is not None:
        bad = dropped["stereoset"] = BadRows(config.stereoset_path)
        place = "intrasentence entry {0.number}"
        examples = _usable(read_stereoset(config.stereoset_path, bad), subjects, example_problem, place, bad)
        bad.check(len(examples), config.max_bad_fraction)
    return Material(subjects, pairs, examples, dropped)


def evaluate_bias(config: EvaluateBiasConfig, folder: RunFolder) -> Outcome:
    """Asks every model; writes `scores.json` and what each row came to."""
    torch.set_num_threads(os.cpu_count() or 1)
    material = read_material(config)
    for bad in material.dropped.values():
        bad.log()
    found = {
        subject.name: find(load_model(config.models[subject.name], config.precision), subject, material, config)
        for subject in material.subjects
    }
    scores = collect_scores(config, material, found)
    storage.write_bytes(folder.path(SCORES_FILE), json.dumps(scores, indent=1).encode())
    _write_rows(material, found, folder)
    counts: dict[str, Any] = {key: scores[key] for key in ("crows_pairs", "stereoset") if key in scores}
    if config.probes:
        counts["probes"] = {name: each["overlap"] for name, each in scores["probes"]["scores"].items()}
    return Outcome(_summary(config, scores), {"models": scores["models"], **counts})


def find(model: MaskedLMBackend, subject: ModelTokenizer, material: Material, config: EvaluateBiasConfig) -> Findings:
    """Asks one model everything."""
    total = _texts(config, material, subject)
    with Progress(f"evaluate_bias {subject.name}", total=total, unit="texts") as progress:
        asked: dict[str, Any] = {"batch_size": config.batch_size, "advance": progress.advance}
        return Findings(
            probes=probe_answers(model, subject, top_k=config.top_k, batch_size=config.batch_size)
            if config.probes
            else None,
            likelihoods=pair_likelihoods(model, subject, material.pairs, **asked),
            words=word_scores(model, subject, material.examples, config.stereoset_scoring, **asked),
        )


def collect_scores(config: EvaluateBiasConfig, material: Material, found: dict[str, Findings]) -> dict[str, Any]:
    """What `scores.json` holds."""
    limits = [limit for name, limit in LIMITS.items() if name == "all" or name in material.dropped]
    scores: dict[str, Any] = {"models": list(found), "reference": config.reference, "limits": limits}
    resampling = {"samples": BOOTSTRAP_SAMPLES, "seed": config.seed}
    if config.probes:
        scores["probes"] = _probes(found, config)
    if config.crows_pairs_path is not None:
        chosen = {name: preferences(each.likelihoods) for name, each in found.items()}
        scores["crows_pairs"] = {
            "pairs": len(material.pairs),
            "dropped": dict(material.dropped["crows_pairs"].counts),
            "scores": {
                name: crows_pairs_scores(material.pairs, each, _compared(config, name, chosen), **resampling)
                for name, each in chosen.items()
            },
        }
    if config.stereoset_path is not None:
        words = {name: each.words for name, each in found.items()}
        scores["stereoset"] = {
            "examples": len(material.examples),
            "dropped": dict(material.dropped["stereoset"].counts),
            "scoring": config.stereoset_scoring,
            "scores": {
                name: stereoset_scores(material.examples, each, _compared(config, name, words), **resampling)
                for name, each in words.items()
            },
        }
    return scores


def show_bias_scores(folder: RunFolder) -> None:
    """Prints the tables of `scores.json`, the card's examples first, and their limits."""
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    console = Console(width=None if os.isatty(1) else 120)
    for table in bias_tables(scores):
        console.print(table)
    for limit in scores["limits"]:
        console.print(limit, style="dim", highlight=False)


def _probes(found: dict[str, Findings], config: EvaluateBiasConfig) -> dict[str, Any]:
    answers = {name: each.probes for name, each in found.items() if each.probes is not None}

    def told(text: str) -> dict[str, Any]:
        return {
            name: [{"token": token, "score": score} for token, score in each.answers[text]]
            for name, each in answers.items()
        }

    return {
        "top_k": config.top_k,
        "card": [{"text": text, "answers": told(text)} for text in CARD_TEXTS],
        "table": [{**probe._asdict(), "answers": told(probe.text)} for probe in group_probes()],
        "scores": {name: probe_scores(each, _compared(config, name, answers)) for name, each in answers.items()},
    }


def _compared(config: EvaluateBiasConfig, name: str, values: Mapping[str, T]) -> T | None:
    """What the reference has of `values`; None for the reference itself."""
    return None if name == config.reference else values[config.reference]


def _texts(config: EvaluateBiasConfig, material: Material, subject: ModelTokenizer) -> int:
    """Masked texts of the two data sets."""
    pairs = sum(len(texts) for pair in material.pairs for texts in pair_texts(pair, subject))
    return pairs + sum(
        len(texts)
        for example in material.examples
        for texts in example_texts(example, subject, config.stereoset_scoring)
    )


def _usable(
    rows: Sequence[T],
    subjects: Sequence[ModelTokenizer],
    problem: Callable[[T, ModelTokenizer], str | None],
    place: str,
    bad: BadRows,
) -> list[T]:
    """The rows that every model can score."""
    kept = []
    for row in rows:
        reason = next((found for subject in subjects if (found := problem(row, subject))), None)
        if reason is None:
            kept.append(row)
        else:
            bad.add(place.format(row), reason)
    return kept


def _write_rows(material: Material, found: dict[str, Findings], folder: RunFolder) -> None:
    """For each row what every model said of it, by the row's place in its file; the texts stay in that file."""
    sets = {
        PAIRS_FILE: [{"line": pair.line} for pair in material.pairs],
        EXAMPLES_FILE: [{"entry": example.number} for example in material.examples],
    }
    values = {
        PAIRS_FILE: {name: each.likelihoods for name, each in found.items()},
        EXAMPLES_FILE: {name: each.words for name, each in found.items()},
    }
    for file, rows in sets.items():
        lines = [
            json.dumps(row | {name: np.round(each[number], 6).tolist() for name, each in values[file].items()})
            for number, row in enumerate(rows)
        ]
        if lines:
            storage.write_bytes(folder.path(file), "\n".join([*lines, ""]).encode())


def _summary(config: EvaluateBiasConfig, scores: dict[str, Any]) -> str:
    parts = [f"{len(config.models)} model(s)"]
    for name in config.models:
        told = []
        if "crows_pairs" in scores:
            share = scores["crows_pairs"]["scores"][name]["overall"]["share"]
            told.append("CrowS-Pairs all ties" if share is None else f"CrowS-Pairs {100 * share:.1f}")
        if "stereoset" in scores:
            told.append(f"StereoSet SS {scores['stereoset']['scores'][name]['overall']['ss']:.1f}")
        if "probes" in scores:
            told.append(f"overlap of genders {scores['probes']['scores'][name]['overlap']['genders']:.2f}")
        parts.append(f"{name}: {', '.join(told)}")
    return "; ".join(parts)
