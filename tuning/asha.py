"""Resumable asynchronous successive halving (ASHA, Li et al. 2018) for trials of different lengths.

Trials are compared at the same fraction of their own schedules: after two epochs, a trial of three epochs has almost
finished the decay of its learning rate, while one of ten epochs has hardly started it.

Ray Tune saves the trials and the searcher of an experiment, but not its scheduler, so a restored search would forget
all earlier scores. It also identifies trials by random ids, and draws new ones for trials that it had not saved yet.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from distilray.config.glue import TaskConfig
from tuning.records import TrialPoint

STATE_FILE = "asha.state"


class ResumableASHA(ASHAScheduler):
    """ASHA whose state is saved with the experiment after each decision and restored with it.

    Rung k is at the fraction `grace_period * reduction_factor**k / max_t` of a schedule. The score at a rung is
    interpolated between the two nearest evaluations. A trial skips rungs before its first evaluation.

    Trials are identified by their values rather than by their ids, so that they are recognized after a restart. A trial
    that was stopped once is stopped again.

    Args:
        time_attr: key of the number of evaluations in a result.
        max_t: number of evaluations of the longest trial.
        grace_period: minimum number of evaluations of every trial.
        reduction_factor: a fraction of 1 / reduction_factor of the trials continues at each rung.
        settings: settings of the task, which the values of a trial override. A trial has
            `epochs * evaluations_per_epoch` evaluations.
    """

    def __init__(
        self,
        *,
        time_attr: str,
        max_t: int,
        grace_period: int,
        reduction_factor: float,
        settings: TaskConfig | None = None,
    ) -> None:
        super().__init__(
            time_attr=time_attr,
            max_t=max_t,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            stop_last_trials=False,  # a trial that has ended needs no decision
        )
        self._grace_period = grace_period
        self._settings = settings or TaskConfig()
        self._scores: dict[str, dict[int, float]] = {}  # by trial and evaluation
        self._stopped: dict[str, float] = {}
        self._is_loaded = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Restore the saved state when the first trial is added."""
        if not self._is_loaded:
            self._load(trial)
        super().on_trial_add(tune_controller, _with_stable_id(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues or stops."""
        if self._time_attr not in result or self._metric not in result:
            return str(TrialScheduler.CONTINUE)
        stable_trial, evaluation = _with_stable_id(trial), result[self._time_attr]
        if evaluation >= self._stopped.get(stable_trial.trial_id, float("inf")):
            return str(TrialScheduler.STOP)
        self._scores.setdefault(stable_trial.trial_id, {})[evaluation] = result[self._metric]
        decision = self._decide(tune_controller, stable_trial, TrialPoint.of(trial.config), evaluation)
        if decision == TrialScheduler.STOP:
            self._stopped[stable_trial.trial_id] = evaluation
        self._save(trial)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the final score."""
        self.on_trial_result(tune_controller, trial, result)
        self.on_trial_remove(tune_controller, trial)

    def _decide(self, tune_controller: Any, stable_trial: Any, point: TrialPoint, evaluation: int) -> str:
        """Compare the trial at every rung that it has reached, lowest first; ASHA counts each trial once per rung."""
        settings = {**self._settings.model_dump(), **point.values}
        length = settings["epochs"] * settings["evaluations_per_epoch"]
        scores = self._scores[stable_trial.trial_id]
        evaluations = sorted(scores)
        for milestone, _ in reversed(self._brackets[0]._rungs):
            rung = round(milestone * length / self._max_t, 9)  # in evaluations of this trial
            if evaluation < max(rung, self._grace_period):
                break
            if rung < evaluations[0]:
                continue
            score = float(np.interp(rung, evaluations, [scores[number] for number in evaluations]))
            decision = super().on_trial_result(
                tune_controller, stable_trial, {self._time_attr: milestone, self._metric: score}
            )
            if decision == TrialScheduler.STOP:
                return str(decision)
        return str(TrialScheduler.CONTINUE)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Remove a trial that stopped early, but keep its scores."""
        super().on_trial_remove(tune_controller, _with_stable_id(trial))

    def _save(self, trial: Any) -> None:
        """Write the state atomically: to a temporary file, which then replaces the old one."""
        files, target = trial.storage.storage_filesystem, _state_path(trial)
        with tempfile.TemporaryDirectory() as folder:
            self.save(f"{folder}/state")
            data = Path(folder, "state").read_bytes()
        with files.open_output_stream(f"{target}.part") as stream:
            stream.write(data)
        files.move(f"{target}.part", target)

    def _load(self, trial: Any) -> None:
        files, source = trial.storage.storage_filesystem, _state_path(trial)
        if files.get_file_info(source).is_file:
            with tempfile.TemporaryDirectory() as folder:
                with files.open_input_stream(source) as stream:
                    Path(folder, "state").write_bytes(stream.readall())
                # This unpickles a file that this class wrote into the run folder of this search.
                self.restore(f"{folder}/state")
        self._is_loaded = True


def _state_path(trial: Any) -> str:
    return f"{trial.storage.experiment_fs_path}/{STATE_FILE}"


def _with_stable_id(trial: Any) -> Any:
    """Return a stand-in with an id derived from the values of the trial; the base class reads no other attribute."""
    return SimpleNamespace(trial_id=TrialPoint.of(trial.config).identity)
