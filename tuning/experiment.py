"""Resumable search for the settings of one task, run as a Ray Tune experiment.

Ray Tune's registry does not support several experiments in the threads of one process, so each experiment runs in its
own process on the same cluster.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from distilray.config.glue import AshaConfig, Space
from distilray.errors import find_input_error
from distilray.runtime import storage
from distilray.runtime.resources import Need
from tuning.asha import ResumableASHA
from tuning.records import (
    BEST,
    EVALUATION,
    Status,
    TrialContext,
    TrialPoint,
    TrialRecord,
    read_evaluations,
    read_record,
    write_record,
)
from tuning.space import Values, tune_domains

END_FILE = "ended.json"  # exists once the experiment is complete
# Not an attribute of the callback, because Ray Tune would restore its saved value after the run folder has moved.
_CONTEXT: ContextVar[TrialContext] = ContextVar("trial context of this process")
_SEED_RANGE = 2**32
_DETAIL, _ADVICE = "Worker exit detail:", "Some common causes"  # delimiters of the reason in Ray's messages
_MAX_DETAIL = 200  # characters
# Disables Ray Tune's loggers, which duplicate the records, and its working folders, which break relative paths.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Experiment:
    """Configuration of the search for the settings of one task.

    Attributes:
        folder: path or URI of the folder in which Ray Tune stores the experiment.
        points: values of each trial, or None if TPE chooses them.
        first_point: values of the first trial.
        num_trials: number of trials; equals the number of points unless TPE chooses them.
        max_evaluations: number of evaluations of the longest trial.
        need: resources of a trial.
        max_concurrent: maximum number of concurrent trials, or None for as many as fit into the cluster.
        budget_s: time limit of the whole search in seconds.
    """

    context: TrialContext
    folder: str
    points: Sequence[Values] | None
    first_point: Values
    space: Space
    num_trials: int
    max_evaluations: int
    asha: AshaConfig
    need: Need
    max_concurrent: int | None
    budget_s: float | None


def run_trial(config: Mapping[str, Any], *, context: TrialContext) -> None:
    """Run one trial. The import is slow, so it happens only in the process of a trial."""
    from tuning.trial import fine_tune_trial

    fine_tune_trial(config, context)


def run_experiment(experiment: Experiment) -> None:
    """Run or resume the experiment, unless it is already complete.

    The results are the records in the folders of the trials.

    Raises:
        InputError: a file of the search cannot be read or written.
    """
    end_file = storage.join(experiment.context.trials_folder, END_FILE)
    if storage.exists(end_file):
        return
    os.environ.update(_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    _CONTEXT.set(experiment.context)
    try:
        _tuner(experiment).fit()
    except Exception as error:  # Ray Tune wraps exceptions of callbacks, and Ray drops their causes
        raise find_input_error(error) or error from None
    storage.write_bytes(end_file, b"{}")


def _tuner(experiment: Experiment) -> tune.Tuner:
    filesystem, path = storage.filesystem(experiment.folder)
    remote = None if isinstance(filesystem, fs.LocalFileSystem) else filesystem
    trainable = tune.with_parameters(run_trial, context=experiment.context)
    # Ray Tune registers functions by name for a whole job, so the last task would replace all others.
    trainable.__name__ = f"fine_tune_{experiment.context.task}"
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([experiment.need.bundle()]))
    # Restoring unpickles files that this search wrote into its own run folder.
    if tune.Tuner.can_restore(path, storage_filesystem=remote):
        return tune.Tuner.restore(
            path,
            trainable=trainable,
            resume_unfinished=True,
            resume_errored=False,
            restart_errored=False,
            storage_filesystem=remote,
        )
    parent, _, name = path.rpartition("/")
    space, searcher = _search_space_and_searcher(experiment)
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=BEST,
            mode="max",
            search_alg=searcher,
            scheduler=_scheduler(experiment),
            num_samples=1 if experiment.points is not None else experiment.num_trials,
            max_concurrent_trials=experiment.max_concurrent,
            time_budget_s=experiment.budget_s,
            reuse_actors=True,
            trial_dirname_creator=_dirname,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=parent,
            storage_filesystem=remote,
            callbacks=[_MissingRecordsCallback()],
            verbose=0,
        ),
    )


def _search_space_and_searcher(experiment: Experiment) -> tuple[dict[str, Any], Any]:
    """Return the search space in Ray Tune's format, and the searcher."""
    seed = experiment.context.seed % _SEED_RANGE
    if experiment.points is None:
        first_point = {f"sample/values/{name}": value for name, value in experiment.first_point.items()}
        searcher = NumberedOptunaSearch(points_to_evaluate=[first_point], seed=seed)
        return {"sample": {"values": tune_domains(experiment.space)}}, searcher
    points = [{"number": number, "values": values} for number, values in enumerate(experiment.points)]
    return {"sample": tune.grid_search(points)}, BasicVariantGenerator(random_state=seed)


def _scheduler(experiment: Experiment) -> TrialScheduler:
    if not experiment.asha.enabled:
        return FIFOScheduler()
    return ResumableASHA(
        time_attr=EVALUATION,
        max_t=experiment.max_evaluations,
        grace_period=experiment.asha.grace_evaluations,
        reduction_factor=experiment.asha.reduction_factor,
        settings=experiment.context.settings,
    )


def _dirname(trial: Trial) -> str:
    """Return a short name for Ray Tune's folder of a trial; its default contains all values."""
    return f"trial-{trial.trial_id}"


class NumberedOptunaSearch(OptunaSearch):
    """TPE search that numbers its trials and counts repeated values.

    Ray Tune saves the counts with the rest of the searcher's state.
    """

    _identities: tuple[str, ...] = ()

    def suggest(self, trial_id: str) -> Any:
        suggestion = super().suggest(trial_id)
        if not isinstance(suggestion, dict) or suggestion == Searcher.FINISHED:
            return suggestion
        point = TrialPoint(len(self._identities), suggestion["sample"]["values"])
        repeat = self._identities.count(point.identity)
        self._identities = (*self._identities, point.identity)
        return {"sample": {"number": point.number, "values": dict(point.values), "repeat": repeat}}


class _MissingRecordsCallback(tune.Callback):
    """Writes the records of trials whose processes were killed or stopped before they could do it."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        _write_missing(trial, "failed", _last_line(trial))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        for trial in trials:
            _write_missing(trial, "stopped", _CONTEXT.get().stop_reason)


def _write_missing(trial: Trial, status: Status, reason: str) -> None:
    context, point = _CONTEXT.get(), TrialPoint.of(trial.config)
    folder = point.folder(context.trials_folder, context.seed)
    if read_record(folder) is None:
        evaluations = read_evaluations(folder)
        seconds = evaluations[-1].seconds if evaluations else 0.0
        values = dict(point.values)
        write_record(folder, TrialRecord(point.number, values, context.seed, status, reason, evaluations, seconds))


def _last_line(trial: Trial) -> str:
    """Return Ray's explanation of why the process of a trial ended, in one line."""
    file = trial.error_file  # on this machine; Ray Tune copies it into the experiment later
    text = Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    detail = lines[-1].partition(_DETAIL)[2] or lines[-1] if lines else "the reason is unknown"
    return f"its process ended: {detail.partition(_ADVICE)[0].strip()[:_MAX_DETAIL]}"
