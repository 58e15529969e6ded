"""Search for the best fine-tuning settings of several tasks at the same time on one cluster."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from distilray.config.glue import SearchGlueConfig, TaskName
from distilray.console import print_tables
from distilray.evaluation.glue.evaluate_glue import collect_scores
from distilray.evaluation.glue.table import glue_table
from distilray.finetuning.dev_predictions import predictions_file
from distilray.finetuning.features import TaskFeatures, encode_task
from distilray.finetuning.files import TaskData, load_tasks
from distilray.finetuning.fine_tune import execute_runs
from distilray.finetuning.fine_tune_run import FineTunePlan, FineTuneRun, Results
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
from tuning.plan import TrialNeed, check_local_device, largest_trial_need, split_slots, trial_count
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
from tuning.space import evaluation_range, first_point, max_lengths, points

SCORES_FILE, TRIALS_FILE, PLOT_FILE = "scores.json", "trials.csv", "search.svg"
TRIALS_FOLDER, TUNE_FOLDER, WINNERS_FOLDER = "trials", "tune", "winners"
_POLL_S = 2.0

# By task and `max_length`.
Encoded = Mapping[TaskName, Mapping[int, TaskFeatures]]


def search_glue(config: SearchGlueConfig, folder: RunFolder) -> Outcome:
    """Search for the best settings of every task, fine-tune the winners with fresh seeds, and write the results."""
    data, missing = load_tasks(config, with_test=False)
    need = largest_trial_need(config, data)
    encoded = _encode(config, data)
    with ray_session(config.ray):
        check_local_device(need)
        room = ensure_capacity(need.request(), job=folder.job, run_dir=folder.uri)
        experiments = _experiments(config, folder, encoded, need, room)
        _run_experiments(experiments, folder)
        searches = [_read_results(config, folder, task) for task in data]
        room = need.request().count_fitting(cluster_nodes())
        # If all nodes have gone, the first winner waits for a new one.
        results = _run_winners(config, folder, searches, encoded, max(1, room))
    return _write(config, folder, searches, data, missing, results)


def show_search(folder: RunFolder) -> None:
    """Print the best trials of each task and the scores of the winners."""
    assert isinstance(folder.config, SearchGlueConfig)
    scores = json.loads(storage.read_bytes(folder.path(SCORES_FILE)))
    tables = [trials_table(_read_results(folder.config, folder, task)) for task in scores["search"]]
    print_tables(*tables, glue_table(scores))


def _encode(config: SearchGlueConfig, data: Mapping[TaskName, TaskData]) -> Encoded:
    """Tokenize every task once for all its trials."""
    tokenizer_json = read_tokenizer(localize(config.model_dir))
    return {
        task: {
            length: encode_task(
                rows,
                tokenizer_json,
                config.task_config(task).model_copy(update={"max_length": length}),
                seed=config.seed,
            )
            for length in max_lengths(config, task)
        }
        for task, rows in data.items()
    }


def _experiments(
    config: SearchGlueConfig, folder: RunFolder, encoded: Encoded, need: TrialNeed, room: int
) -> dict[TaskName, Experiment]:
    experiments = {}
    for (task, features), slots in zip(encoded.items(), split_slots(room, len(encoded)), strict=True):
        context = TrialContext(
            task=task,
            settings=config.task_config(task),
            model_dir=config.model_dir,
            trials_folder=folder.path(TRIALS_FOLDER, task),
            seed=config.seed,
            precision=config.precision,
            deterministic=config.deterministic,
            trial=config.trial,
            features={length: ray.put(task_features) for length, task_features in features.items()},
            stop_reason=_stop_reason(config),
        )
        experiments[task] = Experiment(
            context=context,
            folder=folder.path(TUNE_FOLDER, task),
            points=points(config, task),
            first_point=first_point(config, task),
            space=config.task_space(task),
            num_trials=trial_count(config, task),
            max_evaluations=evaluation_range(config, task)[1],
            asha=config.asha,
            need=need.request(),
            max_concurrent=concurrent_trials(config, slots),
            budget_s=None if config.max_minutes is None else 60 * config.max_minutes,
        )
    return experiments


def concurrent_trials(config: SearchGlueConfig, slots: int) -> int | None:
    """Return the maximum number of concurrent trials of a task, or None on a cluster that may grow.

    With None, Ray Tune starts as many trials as fit. With a time limit, every task is limited to its slots, so that no
    task spends all of its time waiting for others.
    """
    return slots if config.max_minutes is not None or not inside_cluster() else None


def _stop_reason(config: SearchGlueConfig) -> str:
    reasons = {"behind others": config.asha.enabled, "the time limit of the search was reached": config.max_minutes}
    return " or ".join(reason for reason, applies in reasons.items() if applies)


def _run_experiments(experiments: Mapping[TaskName, Experiment], folder: RunFolder) -> None:
    """Run the experiments of all tasks concurrently, with a progress display."""
    known: dict[TaskName, dict[str, TrialRecord]] = {
        task: read_records(each.context.trials_folder) for task, each in experiments.items()
    }
    remote = ray.remote(num_cpus=0)(run_experiment)
    running = [remote.remote(experiment) for experiment in experiments.values()]
    total = sum(experiment.num_trials for experiment in experiments.values())
    with Progress(folder.job, total=total, unit="trials") as progress:
        progress.start_at(sum(map(len, known.values())))
        try:
            while running:
                finished, running = ray.wait(running, num_returns=len(running), timeout=_POLL_S)
                ray.get(finished)
                if inside_cluster():
                    check_run_dir_shared(folder.uri)
                for task, experiment in experiments.items():
                    known[task] = read_records(experiment.context.trials_folder, known[task])
                progress.advance_to(sum(map(len, known.values())), _describe_progress(experiments, known))
        except BaseException:
            for reference in running:  # on a cluster, they would otherwise continue to run
                ray.cancel(reference, force=True)
            raise


def _describe_progress(
    experiments: Mapping[TaskName, Experiment], known: Mapping[TaskName, Mapping[str, TrialRecord]]
) -> str:
    """Return the best score of each task so far and the number of failed trials."""
    parts = []
    for task, experiment in experiments.items():
        metric = experiment.context.settings.metric
        best = [record.best(metric) for record in known[task].values()]
        scores = [evaluation.scores[metric] for evaluation in best if evaluation is not None]
        parts += [f"{task} {metric} {max(scores):.4f}"] if scores else []
    failed = sum(record.status == "failed" for records in known.values() for record in records.values())
    return ", ".join([*parts, *([f"{failed} failed"] if failed else [])])


def _read_results(config: SearchGlueConfig, folder: RunFolder, task: TaskName) -> TaskSearch:
    """Return the results of a task, after removing checkpoints of trials that were stopped while they wrote them."""
    records = read_records(folder.path(TRIALS_FOLDER, task))
    for trial_folder in records:
        storage.remove_folder(storage.join(trial_folder, TRAINING_FOLDER))
    ordered = sorted(records.items(), key=lambda item: (item[1].number, item[0]))
    return TaskSearch(task, config.task_config(task), [record for _, record in ordered], trial_count(config, task))


def _run_winners(
    config: SearchGlueConfig, folder: RunFolder, searches: Sequence[TaskSearch], encoded: Encoded, room: int
) -> Results:
    """Fine-tune the winner of each task with seeds that were not used in the search."""
    runs = [
        FineTuneRun(search.task, seed, search.winning_settings, config.model_dir)
        for search in searches
        for seed in search.settings.seeds
    ]
    results = execute_runs(
        runs,
        {search.task: encoded[search.task][search.winning_settings.max_length] for search in searches},
        FineTunePlan(
            folder.path(WINNERS_FOLDER),
            config.precision,
            winners_scaling(config, room),
            deterministic=config.deterministic,
        ),
        run_dir=folder.uri,
        job=f"{folder.job} winners",
    )
    for result in results.values():
        storage.remove_folder(result.model_dir)  # jobs.evaluate_glue with best.yaml trains models to keep
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
    summaries: dict[str, Any] = {}
    for search in searches:
        best = [results[search.task, seed].fine_tuned.best for seed in search.settings.seeds]
        values = [evaluation.scores[search.settings.metric] for evaluation in best]
        summaries[search.task] = search_summary(
            search,
            values,
            config.seed,
            majority=scores["majority"][search.task][search.settings.metric],
            dev_rows=scores["dev_rows"][search.task],
        )
    scores["search"] = summaries
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
    return Outcome(_summarize(searches, summaries, missing), counts, outputs)


def _summarize(searches: Sequence[TaskSearch], summaries: Mapping[str, Any], missing: Sequence[TaskName]) -> str:
    trials = sum(len(search.records) for search in searches)
    failed = sum(search.counts().get("failed", 0) for search in searches)
    parts = [f"{trials} trials ({failed} failed)" if failed else f"{trials} trials"]
    for task, summary in summaries.items():
        fresh = summary["fresh"]
        parts.append(
            f"{task} {summary['metric']} {fresh['median']:.4f} on dev (median of {len(fresh['scores'])} fresh seeds, "
            f"spread {fresh['spread']:.4f})"
        )
        majority = summary["majority"]
        if not majority["winner_is_above"]:
            parts.append(
                f"less than {CHANCE_ERRORS:g} standard errors ({majority['standard_error']:.4f} each) above the "
                f"majority baseline of {majority['score']:.4f}"
            )
    return ", ".join([*parts, *([f"missing: {', '.join(missing)}"] if missing else [])])
