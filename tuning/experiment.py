"""The search of one task: one experiment of Ray Tune, in a process of its own, that goes on after a kill.

What Ray Tune keeps in its own registry is not made for several experiments in the threads of one process, so each has
a process of its own, on the same cluster.

A trial as Ray Tune calls it. What it trains with is imported by the process that trains, which takes seconds.
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
    read_journal,
    read_record,
    write_record,
)
from tuning.space import Values, domains


def run_trial(config: Mapping[str, Any], *, objective: TrialContext) -> None:
    """A trial, as Ray Tune calls it."""
    from tuning.trial import fine_tune_trial

    fine_tune_trial(config, objective)


ENDED_FILE = "ended.json"
# Ray Tune brings a callback back as it was saved, and the run may lie in another place now.
_RUNNING: ContextVar[TrialContext] = ContextVar("objective of this process")
_SEEDS = 2**32
_DETAIL, _ADVICE = "Worker exit detail:", "Some common causes"  # before and after what Ray knows
_DETAIL_LETTERS = 200
# Ray Tune's own tables, logs of each trial and working folders: the records say it all, and paths stay what they are.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Experiment:
    """What the search of one task is made of.

    Attributes:
        folder: where Ray Tune keeps the experiment; path or URI.
        points: what each trial tries; None when TPE chooses.
        first: what the first trial tries.
        num_trials: as many as there are points.
        most_evaluations: of the longest trial.
        need: of a trial.
        concurrent: trials at a time; None for as many as the cluster has room for.
        budget_s: seconds of the whole search; None without an end.
    """

    objective: TrialContext
    folder: str
    points: Sequence[Values] | None
    first: Values
    space: Space
    num_trials: int
    most_evaluations: int
    asha: AshaConfig
    need: Need
    concurrent: int | None
    budget_s: float | None


def run_experiment(experiment: Experiment) -> None:
    """Runs the search of a task to its end, or does nothing when it has ended in an earlier run.

    What it finds are the records in the folders of the trials.

    Raises:
        InputError: a file of the search cannot be read or written.
    """
    ended = storage.join(experiment.objective.trials_folder, ENDED_FILE)
    if storage.exists(ended):
        return
    os.environ.update(_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    _RUNNING.set(experiment.objective)
    try:
        _tuner(experiment).fit()
    except Exception as error:  # Ray Tune wraps what its callbacks raise, and Ray drops causes on the way to the driver
        raise find_input_error(error) or error from None
    storage.write_bytes(ended, b"{}")


def _tuner(experiment: Experiment) -> tune.Tuner:
    found, path = storage.filesystem(experiment.folder)
    remote = None if isinstance(found, fs.LocalFileSystem) else found
    trainable = tune.with_parameters(run_trial, objective=experiment.objective)
    # Ray Tune knows functions of a whole job by their names: the task that came last would be everybody's.
    trainable.__name__ = f"fine_tune_{experiment.objective.task}"
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([experiment.need.bundle()]))
    # A restore unpickles what lies in the run folder, and that is known to be of this very search.
    if tune.Tuner.can_restore(path, storage_filesystem=remote):
        return tune.Tuner.restore(
            path,
            trainable=trainable,
            resume_unfinished=True,
            resume_errored=False,
            restart_errored=False,
            storage_filesystem=remote,
        )
    above, _, name = path.rpartition("/")
    samples, searcher = _searcher(experiment)
    return tune.Tuner(
        trainable,
        param_space=samples,
        tune_config=tune.TuneConfig(
            metric=BEST,
            mode="max",
            search_alg=searcher,
            scheduler=_scheduler(experiment),
            num_samples=1 if experiment.points is not None else experiment.num_trials,
            max_concurrent_trials=experiment.concurrent,
            time_budget_s=experiment.budget_s,
            reuse_actors=True,
            trial_dirname_creator=_dirname,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=above,
            storage_filesystem=remote,
            callbacks=[_Records()],
            verbose=0,
        ),
    )


def _searcher(experiment: Experiment) -> tuple[dict[str, Any], Any]:
    """The space as Ray Tune takes it, and who chooses in it."""
    seed = experiment.objective.seed % _SEEDS
    if experiment.points is None:
        first = {f"sample/values/{name}": value for name, value in experiment.first.items()}
        return {"sample": {"values": domains(experiment.space)}}, NumberedOptunaSearch(
            points_to_evaluate=[first], seed=seed
        )
    samples = [{"number": number, "values": values} for number, values in enumerate(experiment.points)]
    return {"sample": tune.grid_search(samples)}, BasicVariantGenerator(random_state=seed)


def _scheduler(experiment: Experiment) -> TrialScheduler:
    if not experiment.asha.enabled:
        return FIFOScheduler()
    return ResumableASHA(
        time_attr=EVALUATION,
        max_t=experiment.most_evaluations,
        grace_period=experiment.asha.grace_evaluations,
        reduction_factor=experiment.asha.reduction_factor,
        settings=experiment.objective.settings,
    )


def _dirname(trial: Trial) -> str:
    """Ray Tune's own folder of a trial: its usual name holds all values."""
    return f"trial-{trial.trial_id}"


class NumberedOptunaSearch(OptunaSearch):
    """TPE that numbers its trials, and counts how often it has named the same values.

    The counts are kept with the rest of its state when Ray Tune saves it.
    """

    _names: tuple[str, ...] = ()

    def suggest(self, trial_id: str) -> Any:
        """What the next trial tries."""
        found = super().suggest(trial_id)
        if not isinstance(found, dict) or found == Searcher.FINISHED:
            return found
        sample = TrialPoint(len(self._names), found["sample"]["values"])
        repeat = self._names.count(sample.identity)
        self._names = (*self._names, sample.identity)
        return {"sample": {"number": sample.number, "values": dict(sample.values), "repeat": repeat}}


class _Records(tune.Callback):
    """Writes the record of a trial whose process could not: it was killed, or stopped in the middle."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has failed."""
        _write_missing(trial, "failed", _last_line(trial))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Nothing runs any more."""
        for trial in trials:
            _write_missing(trial, "stopped", _RUNNING.get().stop_reason)


def _write_missing(trial: Trial, status: Status, reason: str) -> None:
    objective, sample = _RUNNING.get(), TrialPoint.of(trial.config)
    folder = sample.folder(objective.trials_folder, objective.seed)
    if read_record(folder) is None:
        found = read_journal(folder)
        seconds = found[-1].seconds if found else 0.0
        values = dict(sample.values)
        write_record(folder, TrialRecord(sample.number, values, objective.seed, status, reason, found, seconds))


def _last_line(trial: Trial) -> str:
    """What Ray tells of a process that is gone, in one line."""
    file = trial.error_file  # on this machine; Ray Tune copies it into the experiment later
    told = Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else ""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    detail = lines[-1].partition(_DETAIL)[2] or lines[-1] if lines else "nothing is known of it"
    return f"its process has ended: {detail.partition(_ADVICE)[0].strip()[:_DETAIL_LETTERS]}"
