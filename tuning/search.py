"""Searches the best fine-tuning settings of several tasks at the same time, over one cluster."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from rich.console import Console

from distilray.config.glue import SearchGlueConfig, TaskName
from distilray.evaluation.glue.evaluate_glue import Results, collect_scores
from distilray.evaluation.glue.table import glue_table
from distilray.finetuning.dev_predictions import predictions_file
from distilray.finetuning.features import TaskFeatures, encode_task
from distilray.finetuning.files import TaskData, load_tasks
from distilray.finetuning.fine_tune import execute_runs
from distilray.finetuning.fine_tune_run import FineTunePlan, FineTuneRun
from distilray.models.sources import localize
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime import storage
from distilray.runtime.environment import inside_cluster
from distilray.runtime.job import Outcome
from distilray.runtime.progress import Progress
from distilray.runtime.resources import check_run_dir_shared, cluster_nodes, ensure_capacity
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session
from distilray.statistics import CHANCE_ERRORS
from tuning.experiment import Experiment, run_experiment
from tuning.plan import TrialNeed, check_local_device, largest_trial_need, shares, trial_count
from tuning.records import TRAINING_FOLDER, TrialContext, TrialRecord, read_records
from tuning.results import (
    RECIPE_FILE,
    TaskSearch,
    best_recipe,
    search_plot,
    search_summary,
    trials_csv,
    trials_table,
    winners_scaling,
)
from tuning.space import evaluations, first_point, lengths, points

SCORES_FILE, TRIALS_FILE, PLOT_FILE = "scores.json", "trials.csv", "search.svg"
TRIALS_FOLDER, TUNE_FOLDER, WINNERS_FOLDER = "trials", "tune", "winners"
_POLL_S = 2.0

# By task and `max_length`.
Encoded = Mapping[TaskName, Mapping[int, TaskFeatures]]


def search_glue(config: SearchGlueConfig, folder: RunFolder) -> Outcome:
    """Searches on every task, fine-tunes the winners with fresh seeds, and writes what was found."""
    data, missing = load_tasks(config, with_test=False)
    need = largest_trial_need(config, data)
    encoded = _encode(config, data)
    with ray_session(config.ray):
        check_local_device(need)
        room = ensure_capacity(need.request(), job=folder.job, run_dir=folder.uri)
        experiments = _experiments(config, folder, encoded, need, room)
        _run(experiments, folder)
        searches = [_found(config, folder, task) for task in data]
        room = max(1, need.request().count_fitting(cluster_nodes()))  # without nodes, the first winner waits for one
        results = _run_winners(config, folder, searches, encoded, room)
    return _write(config, folder, searches, data, missing, results)


def show_search(folder: RunFolder) -> None:
    """Prints the best trials of each task, and the scores of the winners."""
    assert isinstance(folder.config, SearchGlueConfig)
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    console = Console(width=None if os.isatty(1) else 160)
    for task in scores["search"]:
        console.print(trials_table(_found(folder.config, folder, task)))
    console.print(glue_table(scores))


def _encode(config: SearchGlueConfig, data: Mapping[TaskName, TaskData]) -> Encoded:
    """Every task, tokenised once for all its trials."""
    tokenizer_json = read_tokenizer(localize(config.model_dir))
    return {
        task: {
            length: encode_task(
                rows,
                tokenizer_json,
                config.task_config(task).model_copy(update={"max_length": length}),
                seed=config.seed,
            )
            for length in lengths(config, task)
        }
        for task, rows in data.items()
    }


def _experiments(
    config: SearchGlueConfig, folder: RunFolder, encoded: Encoded, need: TrialNeed, room: int
) -> dict[TaskName, Experiment]:
    found = {}
    for (task, features), share in zip(encoded.items(), shares(room, len(encoded)), strict=True):
        objective = TrialContext(
            task=task,
            settings=config.task_config(task),
            model_dir=config.model_dir,
            trials_folder=folder.path(TRIALS_FOLDER, task),
            seed=config.seed,
            precision=config.precision,
            trial=config.trial,
            features={length: ray.put(each) for length, each in features.items()},
            stop_reason=_stop_reason(config),
        )
        found[task] = Experiment(
            objective=objective,
            folder=folder.path(TUNE_FOLDER, task),
            points=points(config, task),
            first=first_point(config, task),
            space=config.task_space(task),
            num_trials=trial_count(config, task),
            most_evaluations=evaluations(config, task)[1],
            asha=config.asha,
            need=need.request(),
            concurrent=concurrent_trials(config, share),
            budget_s=None if config.max_minutes is None else 60 * config.max_minutes,
        )
    return found


def concurrent_trials(config: SearchGlueConfig, share: int) -> int | None:
    """Return the trials of a task at a time: its share of the present room, or None where the cluster may grow.

    Ray Tune begins as many as there is room for. With a time limit all tasks keep their shares, so that none waits for
    the others until its time is over.
    """
    return share if config.max_minutes is not None or not inside_cluster() else None


def _stop_reason(config: SearchGlueConfig) -> str:
    reasons = ["behind others"] if config.asha.enabled else []
    return " or ".join([*reasons, *(["the search's time was over"] if config.max_minutes is not None else [])])


def _run(experiments: Mapping[TaskName, Experiment], folder: RunFolder) -> None:
    """Runs all searches at the same time, and shows how far they are."""
    known: dict[TaskName, dict[str, TrialRecord]] = {
        task: read_records(each.objective.trials_folder) for task, each in experiments.items()
    }
    remote = ray.remote(num_cpus=0)(run_experiment)
    running = [remote.remote(experiment) for experiment in experiments.values()]
    total = sum(experiment.num_trials for experiment in experiments.values())
    with Progress(folder.job, total=total, unit="trials") as progress:
        progress.start_at(sum(map(len, known.values())))
        try:
            while running:
                ended, running = ray.wait(running, num_returns=len(running), timeout=_POLL_S)
                ray.get(ended)
                if inside_cluster():
                    check_run_dir_shared(folder.uri)
                for task, experiment in experiments.items():
                    known[task] = read_records(experiment.objective.trials_folder, known[task])
                progress.advance_to(sum(map(len, known.values())), _standing(experiments, known))
        except BaseException:
            for reference in running:  # in a cluster that goes on they would go on too
                ray.cancel(reference, force=True)
            raise


def _standing(experiments: Mapping[TaskName, Experiment], known: Mapping[TaskName, Mapping[str, TrialRecord]]) -> str:
    """The best score of each task so far, and the trials that failed."""
    parts = []
    for task, experiment in experiments.items():
        metric = experiment.objective.settings.metric
        best = [record.best(metric) for record in known[task].values()]
        scores = [evaluation.scores[metric] for evaluation in best if evaluation is not None]
        parts += [f"{task} {metric} {max(scores):.4f}"] if scores else []
    failed = sum(record.status == "failed" for records in known.values() for record in records.values())
    return ", ".join([*parts, *([f"{failed} failed"] if failed else [])])


def _found(config: SearchGlueConfig, folder: RunFolder, task: TaskName) -> TaskSearch:
    """What the search of a task has found."""
    records = read_records(folder.path(TRIALS_FOLDER, task))
    for place in records:
        storage.remove_folder(storage.join(place, TRAINING_FOLDER))  # of one that was stopped while it wrote
    ordered = sorted(records.items(), key=lambda item: (item[1].number, item[0]))
    return TaskSearch(task, config.task_config(task), [record for _, record in ordered], trial_count(config, task))


def _run_winners(
    config: SearchGlueConfig, folder: RunFolder, searches: Sequence[TaskSearch], encoded: Encoded, room: int
) -> Results:
    """Fine-tunes the winner of each task with seeds that took no part in its choice."""
    units = [
        FineTuneRun(search.task, seed, search.winning_settings, config.model_dir)
        for search in searches
        for seed in search.settings.seeds
    ]
    results = execute_runs(
        units,
        {search.task: encoded[search.task][search.winning_settings.max_length] for search in searches},
        FineTunePlan(folder.path(WINNERS_FOLDER), config.precision, winners_scaling(config, room)),
        run_dir=folder.uri,
        job=f"{folder.job} winners",
    )
    for result in results.values():
        storage.remove_folder(result.model_dir)  # best.yaml makes them where they are kept
    return results


def _write(
    config: SearchGlueConfig,
    folder: RunFolder,
    searches: Sequence[TaskSearch],
    data: Mapping[TaskName, TaskData],
    missing: Sequence[TaskName],
    results: Results,
) -> Outcome:
    scores = collect_scores(config, data, missing, results)
    figures: dict[str, Any] = {}
    for search in searches:
        fresh = [results[search.task, seed].fine_tuned.best for seed in search.settings.seeds]
        values = [best.scores[search.settings.metric] for best in fresh]
        figures[search.task] = search_summary(
            search,
            values,
            config.seed,
            majority=scores["majority"][search.task][search.settings.metric],
            dev_rows=scores["dev_rows"][search.task],
        )
    scores["search"] = figures
    files = {
        TRIALS_FILE: trials_csv(searches),
        PLOT_FILE: search_plot(searches),
        RECIPE_FILE: best_recipe(config, searches, scores["summary"]),
        SCORES_FILE: json.dumps(scores, indent=1).encode(),
    }
    for name, content in files.items():
        storage.write_bytes(folder.path(name), content)
    counts = {key: scores[key] for key in ("summary", "missing", "remarks", "model_hash", "search")}
    predictions = [f"{WINNERS_FOLDER}/{predictions_file(task, seed)}" for task, seed in results]
    outputs = folder.describe_outputs([RECIPE_FILE, *predictions])
    return Outcome(_summary(searches, figures, missing), counts, outputs)


def _summary(searches: Sequence[TaskSearch], figures: Mapping[str, Any], missing: Sequence[TaskName]) -> str:
    trials = sum(len(search.records) for search in searches)
    failed = sum(search.counts().get("failed", 0) for search in searches)
    parts = [f"{trials} trials ({failed} failed)" if failed else f"{trials} trials"]
    for task, found in figures.items():
        fresh = found["fresh"]
        parts.append(
            f"{task} {found['metric']} {fresh['median']:.4f} on dev (median of {len(fresh['scores'])} fresh seeds, "
            f"spread {fresh['spread']:.4f})"
        )
        majority = found["majority"]
        if not majority["winner_is_above"]:
            parts.append(
                f"less than {CHANCE_ERRORS:g} standard errors ({majority['standard_error']:.4f} each) above the "
                f"majority baseline of {majority['score']:.4f}"
            )
    return ", ".join([*parts, *([f"missing: {', '.join(missing)}"] if missing else [])])
