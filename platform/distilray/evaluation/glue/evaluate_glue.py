"""GLUE evaluation: fine-tune a model on each task with several seeds and score it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distilray.config.glue import GLUE_TASKS, EvaluateGlueConfig, GlueConfig, TaskName
from distilray.console import print_tables
from distilray.errors import InputError
from distilray.evaluation.glue.intervals import add_intervals, compare_with_teacher
from distilray.evaluation.glue.submission import find_missing_files, validate_submission, write_submission
from distilray.evaluation.glue.table import glue_table, macro_score, summarize_seeds
from distilray.finetuning.classifier import check_same_tokenizer, output_order
from distilray.finetuning.dev_predictions import predictions_file
from distilray.finetuning.features import encode_tasks
from distilray.finetuning.files import TaskData, load_tasks
from distilray.finetuning.fine_tune import execute_runs, plan_waves, tasks_from_mnli
from distilray.finetuning.fine_tune_run import (
    ALREADY_FINE_TUNED,
    FROM_MNLI,
    MODELS_FOLDER,
    FineTunePlan,
    FineTuneRunResult,
    Results,
    read_predictions,
)
from distilray.finetuning.metrics import majority_scores
from distilray.finetuning.objective import total_steps
from distilray.models.masked_lm import read_model_config
from distilray.models.sources import SAVED_FILES, WEIGHTS_FILE, localize
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.outputs import read_verified
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session

SCORES_FILE = "scores.json"
SUBMISSION_FILE = "submission.zip"


def plan_glue(config: EvaluateGlueConfig) -> dict[str, object]:
    """Validate the inputs of `evaluate_glue` and return its plan."""
    data, missing = load_tasks(config, with_test=config.submission.write)
    model = localize(config.model_dir)
    for task_data in data.values() if not config.train else ():
        output_order(model, read_model_config(model), task_data.task)
    _read_teacher(config)
    if tasks_from_mnli(config, data) and "mnli" not in data:
        raise InputError(f"start_from_mnli: {config.glue_dir} has no MNLI folder; add it, or set start_from_mnli=false")
    if config.submission.write:
        find_missing_files({task: task_data.test for task, task_data in data.items()}, config.submission.fill_missing)
    for task in data:
        if config.distillation is not None:
            teacher = storage.join(config.distillation.teacher_run_dir, MODELS_FOLDER, task)
            check_same_tokenizer(teacher, config.model_dir)
    absent = ", ".join(missing) or "none"
    plan: dict[str, object] = {task: _describe(config, task_data) for task, task_data in data.items()}
    return {"model": config.model_dir, **plan, "missing": absent}


def evaluate_glue(config: EvaluateGlueConfig, folder: RunFolder) -> Outcome:
    """Fine-tune on each task with each seed; write `scores.json`, `models/` and, if configured, the submission."""
    data, missing = load_tasks(config, with_test=config.submission.write)
    features = encode_tasks(config, data)
    plan = FineTunePlan(
        folder.uri,
        config.precision,
        config.scaling,
        config.distillation,
        with_test=config.submission.write,
        deterministic=config.deterministic,
    )
    results: dict[tuple[TaskName, int], FineTuneRunResult] = {}
    with ray_session(config.ray):
        for runs in plan_waves(config, list(data), folder.path(MODELS_FOLDER, FROM_MNLI)):
            needed = {run.task: features[run.task] for run in runs}
            results |= execute_runs(runs, needed, plan, run_dir=folder.uri, job=folder.job)
            for task in dict.fromkeys(run.task for run in runs):
                _keep_best_model(results, task, folder)
    scores = collect_scores(config, data, missing, results)
    teacher = _read_teacher(config)
    comparison = None
    if teacher is not None and config.teacher_run_dir is not None:
        comparison = compare_with_teacher(scores, teacher, config.teacher_run_dir, data, results, seed=config.seed)
        scores["kept"] = comparison.to_json()
    storage.write_bytes(folder.path(SCORES_FILE), json.dumps(scores, indent=1).encode())
    submission = _submit(config, data, results, folder)
    mean, count = macro_score(scores["summary"])
    counts = {key: scores[key] for key in ("summary", "missing", "remarks", "model_hash")}
    models = [f"{MODELS_FOLDER}/{task}/{name}" for task in data for name in SAVED_FILES]
    predictions = [predictions_file(task, seed) for task, seed in results]
    outputs = folder.describe_outputs([SCORES_FILE, *models, *predictions])
    overall = f", macro score {100 * mean:.1f} over {count} of {len(GLUE_TASKS)}" if count else ""
    overall += f", {comparison.summary}" if comparison else ""
    absent = f", missing: {', '.join(missing)}" if missing else ""
    scored = f"{len(results)} fine-tuning runs" if config.train else "a fine-tuned model"
    unofficial = _unofficial_rows(data)
    absent += f", rows differ from the official ones: {unofficial}" if unofficial else ""
    return Outcome(f"{scored} on {len(data)} task(s){overall}{absent}{submission}", counts, outputs)


def collect_scores(
    config: GlueConfig, data: Mapping[TaskName, TaskData], missing: Sequence[TaskName], results: Results
) -> dict[str, Any]:
    """Return the content of `scores.json`: a row for each task, seed and metric, and summaries."""
    model_hash = storage.sha256(storage.join(localize(config.model_dir), WEIGHTS_FILE))
    rows = [
        row | {"official_rows": not data[task].unofficial_splits, "model_hash": model_hash}
        for (task, _), result in results.items()
        for row in _rows(result)
    ]
    scores: dict[str, Any] = {
        "model_hash": model_hash,
        "tasks": config.tasks,
        "missing": list(missing),
        "summary": summarize_seeds(rows),
        "majority": {task: _majority_scores(task_data) for task, task_data in data.items()},
        "dev_rows": {
            task: {name: len(examples) for name, examples in task_data.dev.items()} for task, task_data in data.items()
        },
        "remarks": {task: _remarks(config, task_data, results) for task, task_data in data.items()},
        "rows": rows,
    }
    add_intervals(scores, data, results, seed=config.seed)
    return scores


def show_glue_scores(folder: RunFolder) -> None:
    """Print `scores.json` as a table."""
    assert isinstance(folder.config, EvaluateGlueConfig)
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    print_tables(glue_table(scores, _read_teacher(folder.config)))


def check_submission(path: str) -> str:
    """Validate a submission and return a confirmation.

    Raises:
        InputError: the submission is invalid; the message names the first invalid line.
    """
    validate_submission(path)
    return f"{path}: a valid submission of eleven files for gluebenchmark.com"


def _describe(config: EvaluateGlueConfig, data: TaskData) -> str:
    settings = config.task_config(data.task.name)
    rows = min(len(data.train.first), settings.max_train_examples or len(data.train.first))
    dev = sum(len(examples.first) for examples in data.dev.values())
    if not config.train:
        return f"{dev:,} dev rows, no training"
    return (
        f"{rows:,} of {len(data.train.first):,} train rows, {dev:,} dev rows, {len(settings.seeds)} seed(s) x "
        f"{total_steps(rows, settings):,} steps of {settings.batch_size}"
    )


def _best_run(results: Results, task: TaskName) -> FineTuneRunResult:
    """Return the run of a task with the best dev score, the first one in case of a tie."""
    candidates = [result for (name, _), result in results.items() if name == task]
    return max(candidates, key=lambda result: result.fine_tuned.best.scores[result.run.settings.metric])


def _keep_best_model(results: Results, task: TaskName, folder: RunFolder) -> None:
    """Move the best model of a task to `models/TASK` and remove the models of its other seeds."""
    target, best = folder.path(MODELS_FOLDER, task), _best_run(results, task)
    storage.make_folder(target)
    for file in storage.list_files(best.model_dir):
        storage.write_bytes(storage.join(target, file.rpartition("/")[2]), storage.read_bytes(file))
    for (name, _), result in results.items():
        if name == task:
            storage.remove_folder(result.model_dir)


def _rows(result: FineTuneRunResult) -> list[dict[str, Any]]:
    """Return one row per metric, with the settings that the score depends on."""
    run, best = result.run, result.fine_tuned.best
    settings = {
        "task": run.task,
        "split": "dev",
        "seed": run.seed,
        "start": run.start,
        "evaluation": best.number,
        "epoch": best.epoch,
        "max_train_examples": run.settings.max_train_examples,
    }
    return [settings | {"metric": metric, "value": value} for metric, value in best.scores.items()]


def _majority_scores(data: TaskData) -> dict[str, float]:
    assert data.train.labels is not None
    labels = {name: dev.labels for name, dev in data.dev.items() if dev.labels is not None}
    return majority_scores(data.task, data.train.labels, labels)


def _remarks(config: GlueConfig, data: TaskData, results: Results) -> list[str]:
    """Return the remarks on the scores of a task."""
    task = data.task.name
    settings, rows = config.task_config(task), len(data.train.first)
    starts = {result.run.start for (name, _), result in results.items() if name == task}
    remarks = (
        [f"rows differ from the official ones: {', '.join(data.unofficial_splits)}"] if data.unofficial_splits else []
    )
    remarks += data.remarks
    remarks += [f"{count:,} {reason} dropped" for reason, count in data.dropped.items() if count]
    if ALREADY_FINE_TUNED in starts:
        remarks.append("fine-tuned before")
    elif settings.max_train_examples is not None and settings.max_train_examples < rows:
        remarks.append(f"trained on {settings.max_train_examples:,} of {rows:,} rows")
    if FROM_MNLI in starts:
        remarks.append("started from MNLI")
    if isinstance(config, EvaluateGlueConfig) and config.distillation is not None:
        remarks.append("distilled again")
    return [*remarks, data.task.remark] if data.task.remark else remarks


def _unofficial_rows(data: Mapping[TaskName, TaskData]) -> str:
    """List the splits that do not have the official number of rows."""
    return "; ".join(
        f"{task} {', '.join(task_data.unofficial_splits)}"
        for task, task_data in data.items()
        if task_data.unofficial_splits
    )


def _submit(config: EvaluateGlueConfig, data: Mapping[TaskName, TaskData], results: Results, folder: RunFolder) -> str:
    """Write the submission from the best seed of each task, if configured; return a note for the summary."""
    if not config.submission.write:
        return ""
    predictions = {task: read_predictions(_best_run(results, task)) for task in data}
    note = f"Not fine-tuned on the official rows: {_unofficial_rows(data)}" if _unofficial_rows(data) else ""
    uri, fill_missing = folder.path(SUBMISSION_FILE), config.submission.fill_missing
    filled = write_submission(uri, predictions, fill_missing=fill_missing, note=note)
    return f", {SUBMISSION_FILE}" + (f" (the same answer for every row of {', '.join(filled)})" if filled else "")


def _read_teacher(config: EvaluateGlueConfig) -> Mapping[str, Any] | None:
    """Return the scores of the teacher's run.

    Raises:
        InputError: the file differs from the one that the run wrote.
    """
    if config.teacher_run_dir is None:
        return None
    scores: Mapping[str, Any] = json.loads(read_verified(storage.join(config.teacher_run_dir, SCORES_FILE)))
    return scores
