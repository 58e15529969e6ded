"""Fill-mask scores with confidence intervals from ranks and losses, and their table."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.table import Table

from distilray.config.evaluation import BootstrapConfig
from distilray.console import print_tables
from distilray.evaluation.fill_mask.causal import CAUSAL_METRIC
from distilray.evaluation.fill_mask.scoring import MaskScores
from distilray.evaluation.fill_mask_metrics import FILL_MASK_SCORES, HITS, answer_columns
from distilray.runtime import storage
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.seeding import generator
from distilray.statistics import (
    Array,
    ClusteredSample,
    Interval,
    Ratio,
    ScoreDefinitions,
    nan_to_none,
    percentile_interval,
    share_interval,
)

SCORES_FILE = "scores.json"
TEACHER, STUDENT, BOTH = "teacher", "student", "both"
_SEED_STREAM = 300  # separates these random numbers from other uses of the seed
_AGREEMENT = ScoreDefinitions({"agreement": Ratio("same", "pieces", is_share=True)}, {})
# Scores of answers of several word pieces; scoring.py defines joint and left to right.
_MULTI_PIECE_SCORES = ScoreDefinitions(
    ratios={
        "joint_exact": Ratio("joint_exact", "several", is_share=True),
        "left_to_right_exact": Ratio("left_to_right_exact", "several", is_share=True),
        "joint_perplexity": Ratio("joint_loss", "several_pieces", exponential=True),
        "left_to_right_perplexity": Ratio("left_to_right_loss", "several_pieces", exponential=True),
    },
    medians={},
)

_FORMATS = {
    **{f"hit@{k}": ".3f" for k in HITS},
    "mrr": ".3f",
    "median_rank": ",.0f",
    "mean_rank": ",.1f",
    "pseudo_perplexity": ",.1f",
    "joint_exact": ".3f",
    "left_to_right_exact": ".3f",
    "joint_perplexity": ",.1f",
    "left_to_right_perplexity": ",.1f",
    CAUSAL_METRIC: ",.1f",
    "parameters": ",.0f",
    "megabytes": ".1f",
    "latency_ms": ".1f",
}
_LABELS = {
    "mrr": "MRR",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
    "pseudo_perplexity": "pseudo-perplexity",
    "joint_exact": "multi-piece answers, joint",
    "left_to_right_exact": "multi-piece answers, left to right",
    "joint_perplexity": "perplexity of these, joint",
    "left_to_right_perplexity": "perplexity of these, left to right",
    CAUSAL_METRIC: "causal perplexity of the filled texts",
    "megabytes": "weights, MB",
    "latency_ms": "latency, ms (fp32, batch 1)",
}

Columns = Mapping[str, NDArray[np.generic]]
Values = dict[str, Any]


def columns_from_shards(scores: Mapping[str, MaskScores]) -> tuple[NDArray[np.integer], dict[str, Columns]]:
    """Return the text number of each answer and the columns of each model; each mask is an answer of one piece."""
    examples = next(iter(scores.values())).examples
    ones = np.ones(len(examples), np.int64)
    columns: dict[str, Columns] = {
        name: answer_columns(mask_scores.ranks, mask_scores.losses, ones) for name, mask_scores in scores.items()
    }
    if len(scores) == 2:
        columns[BOTH] = {"same": scores[TEACHER].best == scores[STUDENT].best, "pieces": ones}
    return examples, columns


def columns_from_answers(
    answers: pa.Table, models: list[str], *, left_to_right: bool
) -> tuple[NDArray[np.integer], dict[str, Columns]]:
    """Return the text number of each answer and the columns of each model; `answers` are sorted by file and row."""
    rows, pieces = answers.column("row").to_numpy(), answers.column("pieces").to_numpy()
    files = answers.column("file").combine_chunks().dictionary_encode().indices.to_numpy()
    is_new_text = np.concatenate([[True], (np.diff(rows) != 0) | (np.diff(files) != 0)])
    several = pieces > 1
    columns: dict[str, Columns] = {}
    for name in models:
        ranks, losses, left_to_right_ranks, left_to_right_losses = (
            answers.column(f"{name}_{column}").to_numpy()
            for column in ("rank", "loss", "left_to_right_rank", "left_to_right_loss")
        )
        model_columns = answer_columns(ranks, losses, pieces)
        if left_to_right and several.any():
            model_columns |= {
                "several": several,
                "several_pieces": several * pieces,
                "joint_exact": several & (ranks == 1),
                "left_to_right_exact": several & (left_to_right_ranks == 1),
                "joint_loss": several * losses,
                "left_to_right_loss": several * left_to_right_losses,
            }
        columns[name] = model_columns
    if len(models) == 2:
        columns[BOTH] = {"same": answers.column("same_best").to_numpy(), "pieces": pieces}
    return is_new_text.cumsum(), columns


def summarize_scores(
    texts: NDArray[np.integer], columns: Mapping[str, Columns], config: BootstrapConfig, *, seed: int
) -> tuple[dict[str, dict[str, float | None]], Values]:
    """Return the scores of each model and of both together, and the value of `intervals` in `scores.json`.

    Texts are resampled, with the same draws for all models, which also gives an interval for their difference.
    """
    scores: dict[str, dict[str, float | None]] = {}
    draws: dict[str, dict[str, Array]] = {}
    bounds: dict[str, dict[str, Interval | None]] = {}
    for name, model_columns in columns.items():
        sample, definitions = ClusteredSample(texts, model_columns), _score_definitions(model_columns)
        estimates = sample.estimate(definitions)
        scores[name] = nan_to_none(estimates)
        if config.resamples:
            rng = generator(seed, _SEED_STREAM)
            draws[name] = sample.resample(definitions, resamples=config.resamples, rng=rng)
            bounds[name] = {
                key: share_interval(values, estimates[key], sample.texts_with(ratio.denominator), config.level)
                if (ratio := definitions.ratios.get(key)) and ratio.is_share
                else percentile_interval(values, config.level)
                for key, values in draws[name].items()
            }
    if not draws:
        return scores, {}
    if TEACHER in draws:
        bounds["difference"] = {
            key: percentile_interval(values - draws[TEACHER][key], config.level)
            for key, values in draws[STUDENT].items()
        }
    agreement = bounds.pop(BOTH, {})
    method = {"level": config.level, "resamples": config.resamples, "texts": len(np.unique(texts))}
    return scores, {**method, **agreement, **bounds}


def _score_definitions(columns: Columns) -> ScoreDefinitions:
    if "same" in columns:
        return _AGREEMENT
    if "several" not in columns:
        return FILL_MASK_SCORES
    return ScoreDefinitions({**FILL_MASK_SCORES.ratios, **_MULTI_PIECE_SCORES.ratios}, FILL_MASK_SCORES.medians)


def show_fill_mask_scores(folder: RunFolder) -> None:
    """Print `scores.json` as a table with a column per model."""
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    bounds = scores.get("intervals", {})
    texts = "files" if "rows" in scores else "held-out text"
    table = Table(title=f"fill-mask on {texts}: {scores['examples']:,} examples, {scores['masks']:,} masks")
    both, level = TEACHER in scores, f"{bounds.get('level', 0):.0%}"
    headings = [TEACHER, STUDENT, "student / teacher"] if both else ["model"]
    interval_heading = ([f"difference, {level}"] if both else [level]) if bounds else []
    for heading in ("", *headings, *interval_heading):
        table.add_column(heading, justify="right" if heading else "left")
    for key in _FORMATS:
        if isinstance(scores[STUDENT].get(key), int | float):
            table.add_row(_LABELS.get(key, key), *_cells(scores, key, bounds))
    if both:
        table.add_row("same best token", "", "", f"{scores['agreement']:.1%}")
    print_tables(table)


def _cells(scores: Values, key: str, bounds: Values) -> list[str]:
    form, student = _FORMATS[key], scores[STUDENT][key]
    cells = [f"{student:{form}}"]
    if TEACHER in scores:
        teacher = scores[TEACHER][key]
        cells = [f"{teacher:{form}}", *cells, f"{student / teacher:.1%}" if teacher else ""]
    if bounds:
        interval = bounds["difference" if TEACHER in scores else STUDENT].get(key)
        cells.append("" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}")
    return cells
