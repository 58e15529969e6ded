"""The metadata of a model card, as the Hugging Face hub reads it: what the model is, and its measured values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distilray.config.glue import GLUE_TASKS, METRICS, SCORE, TaskName
from distilray.config.paths import HUB_PREFIX
from distilray.config.report import ReportConfig
from distilray.report.figures import counted
from distilray.report.runs import Run, Runs
from distilray.report.sections.scores import SCORES_FILE, STUDENT, TEACHER

FILL_MASK, CLASSIFICATION = "fill-mask", "text-classification"
_FILL_MASK_METRICS = ("hit@1", "hit@5", "hit@10", "mrr", "pseudo_perplexity")
# Our name of a GLUE metric: that of the hub, and the split if a task has two.
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

Values = dict[str, Any]


def metadata(runs: Runs, config: ReportConfig) -> Values:
    """What stands between the two lines of dashes: keys and values of the hub; only what is known."""
    results = measured(runs)
    base = config.base_model or base_model(runs)
    index = [{"name": config.model_name, "results": results}] if results else None
    found = {
        "language": list(config.language),
        "license": config.licence,
        "library_name": "transformers",
        "pipeline_tag": FILL_MASK,
        "base_model": base,
        "datasets": list(config.datasets),
        "tags": _tags(runs),
        "model-index": index,
    }
    return {key: value for key, value in found.items() if value}


def base_model(runs: Runs) -> str | None:
    """The hub's id of the model that the line began with, None when it began with a folder."""
    for run in [*runs.of("distill"), *runs.of("train_teacher")]:
        source = str(run.recipe.get("teacher_dir") or run.recipe.get("encoder_dir") or "")
        if source.startswith(HUB_PREFIX):
            return source.removeprefix(HUB_PREFIX).partition("@")[0]
    return None


def measured(runs: Runs) -> list[Values]:
    """The results of the model that the report is about, and of no other; each with its split and revision."""
    return [*_fill_mask(runs), *_glue(runs), *_bias(runs)]


def bias_name(runs: Runs, run: Run) -> str | None:
    """The name that the model of the report has in a bias run, None when it is not there."""
    return next((name for name in run.config.get("models", []) if runs.about_subject(run, f"models.{name}")), None)


def glue_runs(runs: Runs) -> list[tuple[Run, Values]]:
    """The GLUE runs that fine-tuned the very weights that the report is about, with their scores."""
    subject = runs.subject
    found = [(run, run.values(SCORES_FILE)) for run in runs.of("evaluate_glue")]
    sha256 = subject.weights.get("sha256") if subject else None
    return [(run, scores) for run, scores in found if sha256 and scores["model_hash"] == sha256]


def fill_mask_runs(runs: Runs) -> list[tuple[Run, str, Values]]:
    """The fill-mask runs that scored the model of the report: the run, the model's name in it, its scores."""
    found = []
    for run in runs.of("evaluate_fill_mask"):
        for name in (STUDENT, TEACHER):
            if runs.about_subject(run, name):
                found.append((run, name, run.values(SCORES_FILE)))
                break
    return found


def _tags(runs: Runs) -> list[str]:
    return ["distilbert", "knowledge-distillation"] if runs.of("distill") else ["bert"]


def _result(task: str, dataset: Values, metrics: Sequence[Values]) -> Values:
    return {"task": {"type": task}, "dataset": dataset, "metrics": list(metrics)}


def _revision(entry: Mapping[str, Any]) -> Values:
    """Of data that has no revision of a hub: the sha256 of its content."""
    known = entry.get("content_hash") or entry.get("fingerprint")
    return {"revision": f"sha256:{known}"} if known else {}


def _fill_mask(runs: Runs) -> Iterator[Values]:
    for run, name, scores in fill_mask_runs(runs):
        is_heldout = "shards" in run.inputs
        dataset = {
            "name": "held-out documents of the pretraining corpus" if is_heldout else "texts with masks",
            "type": "text",
            "split": "heldout" if is_heldout else "test",
            **_revision(run.inputs.get("shards") or run.inputs.get("data") or {}),
            "args": {key: scores[key] for key in ("examples", "masks") if key in scores},
        }
        values = {key: scores[name].get(key) for key in _FILL_MASK_METRICS}
        metrics = [{"type": key, "value": value, "name": key} for key, value in values.items() if value is not None]
        yield _result(FILL_MASK, dataset, metrics)


def _glue(runs: Runs) -> Iterator[Values]:
    for run, scores in glue_runs(runs):
        for task in scores["summary"]:
            by_split: dict[str, list[Values]] = {}
            for metric in METRICS[task]:
                kind, split = _GLUE_METRICS[metric]
                found = scores["summary"][task][metric]
                by_split.setdefault(split, []).append(
                    {"type": kind, "value": found["median"], "name": _glue_name(task, metric, found, scores)}
                )
            for split, metrics in by_split.items():
                yield _result(CLASSIFICATION, {**_glue_dataset(task, split), **_revision(_read(run, task))}, metrics)


def _glue_dataset(task: TaskName, split: str) -> Values:
    if task not in GLUE_TASKS:
        return {"name": task, "type": task, "split": split}
    return {"name": f"GLUE {task.upper()}", "type": "nyu-mll/glue", "config": task, "split": split}


def _read(run: Run, task: TaskName) -> Mapping[str, Any]:
    return run.inputs.get(f"glue_{task}", {})


def _glue_name(task: TaskName, metric: str, found: Mapping[str, float], scores: Values) -> str:
    remarks = [f"median of {counted(int(found['seeds']), 'seed')}", *scores.get("remarks", {}).get(task, [])]
    return f"{metric if metric != SCORE else 'score'}, {', '.join(remarks)}"


def _bias(runs: Runs) -> Iterator[Values]:
    for run in runs.of("evaluate_bias"):
        name, scores = bias_name(runs, run), run.values(SCORES_FILE)
        for key, (title, kind, split, metrics) in _BIAS_SETS.items():
            if name is None or key not in scores:
                continue
            found = scores[key]["scores"][name]["overall"]
            values = [
                {"type": f"{key}_{metric}", "value": found[metric], "name": f"{title}: {metric}"}
                for metric in metrics
                if found.get(metric) is not None
            ]
            dataset = {"name": title, "type": kind, "split": split, **_revision(run.inputs.get(key, {}))}
            if values:
                yield _result(FILL_MASK, dataset, values)
