"""Hook that writes checkpoints and resumes from them."""

from dataclasses import dataclass, field
from typing import Any

from distilray.errors import InputError
from distilray.pretraining_data.sample_plan import SamplePlan
from distilray.training.checkpoint import BrokenCheckpointError, CheckpointStore, Snapshot, TrainingState
from distilray.training.loop import Hook, Step, Stop
from distilray.training.optimizer import Updater
from distilray.training.process_group import Workers


@dataclass
class CheckpointHook(Hook):
    """Writes a checkpoint every few steps, after the last step, and when an earlier hook requests one.

    Attributes:
        config_hash: hash of the run's config.
        tokenizer_json: tokenizer saved with the model.
        scores: latest held-out scores, saved with each checkpoint; shared with the evaluation hook.
    """

    store: CheckpointStore
    workers: Workers
    model: Any
    updater: Updater
    plan: SamplePlan
    config_hash: str
    tokenizer_json: str
    every_steps: int
    scores: dict[str, float] = field(default_factory=dict)

    phase = "checkpoint"

    def restore(self) -> int:
        """Restore the newest intact checkpoint on all workers, and return its step, or 0 if there is none.

        Raises:
            BrokenCheckpointError: the checkpoint belongs to another run.
        """
        newest = self.store.newest() if self.workers.rank == 0 else None
        step = int(self.workers.broadcast(str(newest.step if newest else 0)))
        if step == 0:
            return 0
        state = self.store.state(step)
        if state.plan != self.plan.state(step):
            raise BrokenCheckpointError(
                f"{self.store.path(step)}: {state.plan} after {step} steps, but these shards and batch_size give "
                f"{self.plan.state(step)}; it belongs to another run"
            )
        self.store.restore(step, self.model, self.updater.optimizer)
        self.updater.skipped, self.updater.skipped_in_a_row = state.skipped_steps
        self.updater.load_scaler_state(state.scaler)
        self.scores.update(state.metrics)
        return step

    def after_step(self, step: Step) -> Stop | None:
        """Write a checkpoint if one is due. If writing fails, training stops on all workers."""
        if not (step.checkpoint_now or step.is_due(self.every_steps)):
            return None
        problem = ""
        if self.workers.rank == 0:
            try:
                self.store.save(self._snapshot(step.done))
                if step.checkpoint_now or step.is_last:
                    self.store.wait()
            except InputError as error:
                problem = str(error)
        problem = self.workers.broadcast(problem)
        return Stop("checkpoint", problem) if problem else None

    def _snapshot(self, done: int) -> Snapshot:
        state = TrainingState(
            step=done,
            plan=self.plan.state(done),
            config_hash=self.config_hash,
            skipped_steps=(self.updater.skipped, self.updater.skipped_in_a_row),
            scaler=self.updater.scaler_state(),
            metrics=dict(self.scores),
        )
        return Snapshot.of(self.model, self.updater.optimizer, state, self.tokenizer_json)
