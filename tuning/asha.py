"""Asynchronous successive halving (Li et al. 2018) over shares of schedules, whose scores and decisions are saved.

Trials of different lengths are compared at the same share of their own schedules: after two epochs a trial of three has
nearly ended its decay of the learning rate, one of ten has not begun it.

Ray Tune saves trials and searcher of an experiment, but not its scheduler: a restored search would compare with no
earlier score. It also knows trials by ids, and draws new ones for those it had not saved.
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
    """ASHA that is saved beside the experiment after each decision and resumes from there after a restore.

    The rungs are the shares `grace_period * reduction_factor**k / max_t` of a schedule. The score at a rung is
    interpolated between the evaluations around it. A trial skips rungs before its first evaluation.

    A trial is known by the values that it tries, not by its id, so that it is the same after a restart. A trial that
    was stopped is stopped again.

    Args:
        time_attr: key of a result that counts its evaluations.
        max_t: evaluations of the longest trial.
        grace_period: evaluations that every trial gets.
        reduction_factor: one of so many trials continues at each rung.
        settings: of a trial where it tries no other values; its length is their `epochs * evaluations_per_epoch`.
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
        # A trial at its end needs no decision.
        super().__init__(
            time_attr=time_attr,
            max_t=max_t,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self._grace_period = grace_period
        self._settings = settings or TaskConfig()
        self._scores: dict[str, dict[int, float]] = {}  # by trial and evaluation
        self._stopped: dict[str, float] = {}
        self._is_loaded = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Loads the saved state with the first trial of a process."""
        if not self._is_loaded:
            self._load(trial)
        super().on_trial_add(tune_controller, _by_values(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues or stops."""
        if self._time_attr not in result or self._metric not in result:
            return str(TrialScheduler.CONTINUE)
        known, evaluation = _by_values(trial), result[self._time_attr]
        if evaluation >= self._stopped.get(known.trial_id, float("inf")):
            return str(TrialScheduler.STOP)
        self._scores.setdefault(known.trial_id, {})[evaluation] = result[self._metric]
        decision = self._decide(tune_controller, known, TrialPoint.of(trial.config), evaluation)
        if decision == TrialScheduler.STOP:
            self._stopped[known.trial_id] = evaluation
        self._save(trial)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Records the last score."""
        self.on_trial_result(tune_controller, trial, result)
        self.on_trial_remove(tune_controller, trial)

    def _decide(self, tune_controller: Any, known: Any, sample: TrialPoint, evaluation: int) -> str:
        """Compares a trial at each rung that it has reached, from the lowest; each rung counts a trial once."""
        settings = {**self._settings.model_dump(), **sample.values}
        length = settings["epochs"] * settings["evaluations_per_epoch"]
        scores = self._scores[known.trial_id]
        numbers = sorted(scores)
        for milestone, _ in reversed(self._brackets[0]._rungs):
            at = round(milestone * length / self._max_t, 9)  # in evaluations of this trial
            if evaluation < max(at, self._grace_period):
                break
            if at < numbers[0]:
                continue
            score = float(np.interp(at, numbers, [scores[number] for number in numbers]))
            decision = super().on_trial_result(
                tune_controller, known, {self._time_attr: milestone, self._metric: score}
            )
            if decision == TrialScheduler.STOP:
                return str(decision)
        return str(TrialScheduler.CONTINUE)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forgets a trial that is stopped before its end; its scores stay."""
        super().on_trial_remove(tune_controller, _by_values(trial))

    def _save(self, trial: Any) -> None:
        """Writes the state whole or not at all: beside it first, then in its place."""
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
                # It unpickles what this class has written, in a run folder that is known to be this search's.
                self.restore(f"{folder}/state")
        self._is_loaded = True


def _state_path(trial: Any) -> str:
    """In the folder of the experiment, wherever that lies now."""
    return f"{trial.storage.experiment_fs_path}/{STATE_FILE}"


def _by_values(trial: Any) -> Any:
    """The trial, with what it tries in place of its id, which is all that is asked of it."""
    return SimpleNamespace(trial_id=TrialPoint.of(trial.config).identity)
