"""Model-card metadata for the Hugging Face hub: properties of the model and its evaluation results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.config.paths import HUB_PREFIX
from distilray.config.report import ReportConfig
from distilray.finetuning.tasks import TASKS
from distilray.models.architectures import BERT, DISTILBERT
from distilray.report.formatting import pluralize
from distilray.report.runs import Runs, Values

FILL_MASK, CLASSIFICATION = "fill-mask", "text-classification"
_FILL_MASK_METRICS = ("hit@1", "hit@5", "hit@10", "mrr", "pseudo_perplexity")
# GLUE metric -> name of the metric on the hub, and the split.
_GLUE_METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "validation"),
    "accuracy_m": ("accuracy", "validation_matched"),
    "accuracy_mm": ("accuracy", "validation_mismatched"),
    "f1": ("f1", "validation"),
    "matthews": ("matthews_correlation", "validation"),
    "pearson": ("pearsonr", "validation"),
    "spearman": ("spearmanr", "validation"),
}
_BIAS_SETS: Mapping[str, tuple[str, str, str, Sequence[str]]] = {
    "crows_pairs": ("CrowS-Pairs", "nyu-mll/crows_pairs", "test", ("share",)),
    "stereoset": ("StereoSet, intrasentence", "McGill-NLP/stereoset", "validation", ("lms", "ss", "icat")),
}


def card_metadata(runs: Runs, config: ReportConfig) -> ModelCardData:
    """Return the known properties of the model and its own evaluation results."""
    results = [*_fill_mask_results(runs), *_glue_results(runs), *_bias_results(runs)]
    return ModelCardData(
        language=list(config.language) or None,
        license=config.license,
        library_name="transformers",
        pipeline_tag=FILL_MASK,
        base_model=config.base_model or base_model(runs),
        datasets=list(config.datasets) or None,
        tags=[DISTILBERT.name, "knowledge-distillation"] if runs.by_job("distill") else [BERT.name],
        model_name=config.model_name if results else None,
        eval_results=results or None,
    )


def base_model(runs: Runs) -> str | None:
    """Return the hub id of the pipeline's first model; None for a local folder."""
    for run in [*runs.by_job("distill"), *runs.by_job("train_teacher")]:
        source = str(run.recipe.get("teacher_dir") or run.recipe.get("encoder_dir") or "")
        if source.startswith(HUB_PREFIX):
            return source.removeprefix(HUB_PREFIX).partition("@")[0]
    return None


def _fill_mask_results(runs: Runs) -> Iterator[EvalResult]:
    for run, name, scores in runs.fill_mask_scores():
        is_heldout = "shards" in run.inputs
        dataset = {
            "dataset_name": "held-out documents of the pretraining corpus" if is_heldout else "masked texts",
            "dataset_type": "text",
            "dataset_split": "heldout" if is_heldout else "test",
            "dataset_revision": _revision(run.inputs.get("shards") or run.inputs.get("data") or {}),
            "dataset_args": {key: scores[key] for key in ("examples", "masks") if key in scores},
        }
        for key in _FILL_MASK_METRICS:
            if scores[name].get(key) is not None:
                yield _result(FILL_MASK, dataset, key, scores[name][key], key)


def _glue_results(runs: Runs) -> Iterator[EvalResult]:
    for run, scores in runs.glue_scores():
        for task in scores["summary"]:
            for metric in TASKS[task].metrics:
                kind, split = _GLUE_METRICS[metric]
                values = scores["summary"][task][metric]
                dataset = _glue_dataset(task) | {
                    "dataset_split": split,
                    "dataset_revision": _revision(run.inputs.get(f"glue_{task}", {})),
                }
                remarks = [f"median of {pluralize(int(values['seeds']), 'seed')}"]
                remarks += scores.get("remarks", {}).get(task, [])
                name = f"{metric if metric != SCORE else 'score'}, {', '.join(remarks)}"
                yield _result(CLASSIFICATION, dataset, kind, values["median"], name)


def _glue_dataset(task: TaskName) -> dict[str, Any]:
    if task not in GLUE_TASKS:
        return {"dataset_name": task, "dataset_type": task}
    return {"dataset_name": f"GLUE {task.upper()}", "dataset_type": "nyu-mll/glue", "dataset_config": task}


def _bias_results(runs: Runs) -> Iterator[EvalResult]:
    for run, name, scores in runs.bias_scores():
        for key, (title, kind, split, metrics) in _BIAS_SETS.items():
            values = scores[key]["scores"][name]["overall"] if key in scores else {}
            dataset = {
                "dataset_name": title,
                "dataset_type": kind,
                "dataset_split": split,
                "dataset_revision": _revision(run.inputs.get(key, {})),
            }
            for metric in metrics:
                if values.get(metric) is not None:
                    yield _result(FILL_MASK, dataset, f"{key}_{metric}", values[metric], f"{title}: {metric}")


def _result(task: str, dataset: Mapping[str, Any], metric: str, value: float, name: str) -> EvalResult:
    return EvalResult(task_type=task, metric_type=metric, metric_value=value, metric_name=name, **dataset)


def _revision(entry: Values) -> str | None:
    """Return the sha256 of the data, since local data has no revision on the hub."""
    sha256 = entry.get("content_hash") or entry.get("fingerprint")
    return f"sha256:{sha256}" if sha256 else None
