"""Asynchronous successive halving (Li et al. 2018) whose scores and decisions outlive the process.

Ray Tune saves trials and searcher of an experiment, but not its scheduler: a restored search would compare with no
score of before. And it knows trials by ids that it draws anew for what it had not saved yet.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tuning.records import Sample

STATE_FILE = "asha.state"


class LastingAsha(ASHAScheduler):
    """ASHA that is saved beside the experiment after each decision, and goes on from there after a restore.

    A trial is known by what it tries, not by its id: one that comes again after a restart is still the same. A trial
    that was to stop is told so again.

    Args:
        time_attr: key of a result that counts its evaluations.
        max_t: evaluations of the longest trial.
        grace_period: evaluations that every trial gets.
        reduction_factor: one of so many trials goes on at each rung.
    """

    def __init__(self, *, time_attr: str, max_t: int, grace_period: int, reduction_factor: float) -> None:
        # The longest trial ends by itself, so the last evaluation needs no decision.
        super().__init__(
            time_attr=time_attr,
            max_t=max_t,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self._stopped: dict[str, float] = {}
        self._is_loaded = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Takes up the state of before, at the first trial of a process."""
        if not self._is_loaded:
            self._load(trial)
        super().on_trial_add(tune_controller, _by_values(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        known = _by_values(trial)
        if result.get(self._time_attr, 0) >= self._stopped.get(known.trial_id, float("inf")):
            return str(TrialScheduler.STOP)
        decision = str(super().on_trial_result(tune_controller, known, result))
        if decision == TrialScheduler.STOP:
            self._stopped[known.trial_id] = result[self._time_attr]
        self._save(trial)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Records the last score."""
        super().on_trial_complete(tune_controller, _by_values(trial), result)
        self._save(trial)

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
    return SimpleNamespace(trial_id=Sample.of(trial.config).identity)
