"""From ranks and losses to `scores.json`: scores, intervals, differences; and the table that shows them.

Models over the held-out shards of jobs.encode_corpus, in one process.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from distilray.config.evaluation import BootstrapConfig, EvaluateFillMaskConfig
from distilray.evaluation.fill_mask.causal import CAUSAL_METRIC
from distilray.evaluation.fill_mask.scoring import Batch, model_dirs, predict_masks
from distilray.evaluation.fill_mask.windows import Ints
from distilray.evaluation.fill_mask_metrics import FILL_MASK_SCORES, HITS, answer_columns
from distilray.models.masked_lm import read_model_config
from distilray.pretraining_data.batches import Batch as PaddedBatch
from distilray.pretraining_data.batches import collate, heldout_rows
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet, check_vocabulary
from distilray.pretraining_data.tokenizer import Vocabulary, read_tokenizer, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.seeding import generator
from distilray.statistics import (
    Array,
    ClusteredSample,
    Interval,
    Ratio,
    ScoreDefinitions,
    percentile_interval,
    share_interval,
    without_nan,
)


@dataclass(frozen=True)
class MaskScores:
    """One model over all masks.

    Attributes:
        examples: (masks,) row of the example of each mask.
        ranks, losses: (masks,) of the true token.
        best: (masks,) the most probable token.
    """

    examples: Ints
    ranks: Ints
    losses: NDArray[np.float64]
    best: Ints


class HeldoutShards:
    """The held-out split, after a check that all models read the ids of their tokenizer.

    Raises:
        InputError: no complete run, no such split, a changed shard, or a model with another tokenizer.
    """

    def __init__(self, config: EvaluateFillMaskConfig) -> None:
        assert config.shards_dir is not None
        self._config = config
        for folder in model_dirs(config).values():
            tokenizer_json, embeddings = read_tokenizer(folder), read_model_config(folder).vocab_size
            check_vocabulary(config.shards_dir, tokenizer_json, model=folder, embeddings=embeddings)
        self._shards = ShardSet(config.shards_dir, "heldout", verify=True, cache=ShardCache(config.cache))
        self._vocabulary: Vocabulary = vocabulary_of(tokenizer_json)

    @property
    def examples(self) -> int:
        """Examples that are used."""
        return min(len(self._shards), self._config.max_examples or len(self._shards))

    @property
    def masks(self) -> int:
        """Masks of the examples that are used."""
        rows = np.arange(self.examples)
        return int(self._shards.mask_counts(rows, np.zeros_like(rows)).sum())

    def score(self, model: Any, name: str) -> MaskScores:
        """Ranks and losses of the true token at every mask: fill-mask shows the model no original token there."""
        found: list[tuple[Ints, Ints, NDArray[np.float64], Ints]] = []
        size = self._config.batch_size
        with Progress(f"evaluate_fill_mask {name}", total=self.examples, unit="examples") as progress:
            for planned in heldout_rows(self._shards, batch_size=size, limit=self._config.max_examples):
                padded = collate(self._shards, planned, pad_id=self._vocabulary.pad)
                width = padded.input_ids.shape[1]
                batch = _tensors(padded.fully_masked(self._vocabulary.mask))
                found.append(
                    (planned.rows[padded.mask_index // width], *predict_masks(model, batch, self._config.precision))
                )
                progress.advance(len(planned.rows))
        return MaskScores(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def single_batches(self) -> list[Batch]:
        """The first examples, each a batch of its own without padding."""
        rows = np.arange(min(len(self._shards), self._config.latency_examples))
        planned = [PlannedRows(rows[row : row + 1], np.zeros(1, np.int64)) for row in range(len(rows))]
        padded = [collate(self._shards, each, pad_id=self._vocabulary.pad, multiple=1) for each in planned]
        return [_tensors(each.fully_masked(self._vocabulary.mask)) for each in padded]


def _tensors(batch: PaddedBatch) -> Batch:
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids, batch.mask_index, batch.mask_labels)
    return Batch(*map(torch.from_numpy, arrays))


SCORES_FILE = "scores.json"
TEACHER, STUDENT, BOTH = "teacher", "student", "both"
_SEED_USE = 300  # sets the draws apart from other uses of the seed
_AGREEMENT = ScoreDefinitions({"agreement": Ratio("same", "pieces", is_share=True)}, {})
# Of answers of several word pieces only: see scoring.py for joint and left to right.
_SEVERAL = ScoreDefinitions(
    ratios={
        "joint_exact": Ratio("joint_exact", "several", is_share=True),
        "left_to_right_exact": Ratio("left_to_right_exact", "several", is_share=True),
        "joint_perplexity": Ratio("joint_loss", "several_pieces", exponential=True),
        "left_to_right_perplexity": Ratio("left_to_right_loss", "several_pieces", exponential=True),
    },
    medians={},
)

Columns = Mapping[str, NDArray[np.generic]]
Values = dict[str, Any]


def columns_from_shards(found: Mapping[str, MaskScores]) -> tuple[NDArray[np.integer], dict[str, Columns]]:
    """The text of each mask, and the columns of each model; a mask of a shard is an answer of one piece."""
    masks = next(iter(found.values()))
    ones = np.ones(len(masks.examples), np.int64)
    columns: dict[str, Columns] = {name: answer_columns(one.ranks, one.losses, ones) for name, one in found.items()}
    if len(found) == 2:
        columns[BOTH] = {"same": found[TEACHER].best == found[STUDENT].best, "pieces": ones}
    return masks.examples, columns


def columns_from_answers(
    answers: pa.Table, models: list[str], *, left_to_right: bool
) -> tuple[NDArray[np.integer], dict[str, Columns]]:
    """The same of the files of answers, which stand in the order of files and rows."""
    rows, pieces = answers.column("row").to_numpy(), answers.column("pieces").to_numpy()
    files = answers.column("file").combine_chunks().dictionary_encode().indices.to_numpy()
    begins = np.concatenate([[True], (np.diff(rows) != 0) | (np.diff(files) != 0)])
    several = pieces > 1
    columns: dict[str, Columns] = {}
    for name in models:
        ranks, losses, left_to_right_ranks, left_to_right_losses = (
            answers.column(f"{name}_{column}").to_numpy()
            for column in ("rank", "loss", "left_to_right_rank", "left_to_right_loss")
        )
        found = answer_columns(ranks, losses, pieces)
        if left_to_right and several.any():
            found |= {
                "several": several,
                "several_pieces": several * pieces,
                "joint_exact": several & (ranks == 1),
                "left_to_right_exact": several & (left_to_right_ranks == 1),
                "joint_loss": several * losses,
                "left_to_right_loss": several * left_to_right_losses,
            }
        columns[name] = found
    if len(models) == 2:
        columns[BOTH] = {"same": answers.column("same_best").to_numpy(), "pieces": pieces}
    return begins.cumsum(), columns


def summarize_scores(
    texts: NDArray[np.integer], columns: Mapping[str, Columns], config: BootstrapConfig, *, seed: int
) -> tuple[dict[str, dict[str, float | None]], Values]:
    """The scores of each model (and what is of both), and the intervals of all of them and of the difference."""
    scores: dict[str, dict[str, float | None]] = {}
    draws: dict[str, dict[str, Array]] = {}
    bounds: dict[str, dict[str, Interval | None]] = {}
    for name, of_name in columns.items():
        sample, wanted = ClusteredSample(texts, of_name), _scores_of(of_name)
        estimates = sample.estimate(wanted)
        scores[name] = without_nan(estimates)
        if config.resamples:
            rng = generator(seed, _SEED_USE)  # the same draws for every model
            draws[name] = sample.resample(wanted, resamples=config.resamples, rng=rng)
            bounds[name] = {
                key: share_interval(values, estimates[key], sample.texts_with(ratio.denominator), config.level)
                if (ratio := wanted.ratios.get(key)) and ratio.is_share
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
    told = {"level": config.level, "resamples": config.resamples, "texts": len(np.unique(texts))}
    return scores, {**told, **agreement, **bounds}


def _scores_of(columns: Columns) -> ScoreDefinitions:
    if "same" in columns:
        return _AGREEMENT
    if "several" not in columns:
        return FILL_MASK_SCORES
    return ScoreDefinitions({**FILL_MASK_SCORES.ratios, **_SEVERAL.ratios}, FILL_MASK_SCORES.medians)


def show_fill_mask_scores(folder: RunFolder) -> None:
    """Prints the table of the models from `scores.json`."""
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    bounds = scores.get("intervals", {})
    texts = "texts in files" if "rows" in scores else "held-out text"
    table = Table(title=f"fill-mask on {texts}: {scores['examples']:,} examples, {scores['masks']:,} masks")
    both, level = TEACHER in scores, f"{bounds.get('level', 0):.0%}"
    headings = [TEACHER, STUDENT, "student / teacher"] if both else ["model"]
    behind = ([f"difference, {level}"] if both else [level]) if bounds else []
    for heading in ("", *headings, *behind):
        table.add_column(heading, justify="right" if heading else "left")
    for key in _FORMATS:
        if isinstance(scores[STUDENT].get(key), int | float):
            table.add_row(_LABELS.get(key, key), *_cells(scores, key, bounds))
    if both:
        table.add_row("same best token", "", "", f"{scores['agreement']:.1%}")
    Console(width=None if os.isatty(1) else 100).print(table)


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
    "joint_exact": "several pieces right at once",
    "left_to_right_exact": "several pieces, left to right",
    "joint_perplexity": "their perplexity at once",
    "left_to_right_perplexity": "their perplexity, left to right",
    CAUSAL_METRIC: "causal perplexity of the filled texts",
    "megabytes": "weights, MB",
    "latency_ms": "latency, ms (fp32, batch 1)",
}


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
