"""One fine-tuning run (a task with a seed): its execution by one worker, and its folder."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.glue import FineTuneScaling, TaskConfig, TaskDistillationConfig, TaskName
from distilray.errors import InputError
from distilray.finetuning.classifier import load_classifier, load_fine_tuned, save_classifier
from distilray.finetuning.classifier_training import ClassifierTraining, check_length, fine_tune
from distilray.finetuning.dev_predictions import predictions_file, write_dev_predictions
from distilray.finetuning.features import TaskFeatures
from distilray.finetuning.fine_tune_state import Evaluation, EvaluationHistory
from distilray.finetuning.metrics import predictions, task_scores
from distilray.finetuning.objective import predict
from distilray.finetuning.tasks import TASKS
from distilray.models.precision import compute_dtype, configure_arithmetic
from distilray.models.processor import configure_cpu
from distilray.models.sources import MODEL_FOLDER, localize
from distilray.runtime import storage
from distilray.training.checkpoint import CHECKPOINTS_FOLDER, newest_step
from distilray.training.process_group import Workers

MODELS_FOLDER = "models"  # in the run folder of the job: the best model of each task
FROM_MODEL, FROM_MNLI, ALREADY_FINE_TUNED = "model", "mnli", "fine-tuned"  # values of FineTuneRun.start
_RUNS_FOLDER = "units"
_TRAINING_FOLDER = "training"
_RESULT_FILE = "result.json"
_PREDICTIONS_FILE = "predictions.json"
_PROGRESS_FILE = "progress.json"

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FineTuneRun:
    """Fine-tuning of a model on one task with one seed.

    Attributes:
        start: `model`; `mnli` for a model that was first fine-tuned on MNLI; `fine-tuned` for a model that was already
            fine-tuned on the task and is only scored.
    """

    task: TaskName
    seed: int
    settings: TaskConfig
    model_dir: str
    start: str = FROM_MODEL

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.task}-seed-{self.seed}"


@dataclass(frozen=True)
class FineTuneRunResult:
    """Result of a fine-tuning run.

    Attributes:
        folder: folder of the run.
        dev_predictions: file with its predictions on the dev sets.
    """

    run: FineTuneRun
    fine_tuned: EvaluationHistory
    folder: str
    dev_predictions: str

    @property
    def model_dir(self) -> str:
        """Folder of the model with the weights of the best evaluation."""
        return storage.join(self.folder, _TRAINING_FOLDER, MODEL_FOLDER)


Results = Mapping[tuple[TaskName, int], FineTuneRunResult]  # by task and seed


@dataclass(frozen=True)
class FineTunePlan:
    """Settings shared by all fine-tuning runs of a job.

    Attributes:
        folder: run folder of the job.
        features: references to TaskFeatures in the object store.
    """

    folder: str
    precision: str
    scaling: FineTuneScaling
    distillation: TaskDistillationConfig | None = None
    with_test: bool = False
    deterministic: bool = False
    features: Mapping[TaskName, Any] = field(default_factory=dict)

    def folder_of(self, run: FineTuneRun) -> str:
        return storage.join(self.folder, _RUNS_FOLDER, run.name)

    def dev_predictions(self, run: FineTuneRun) -> str:
        """Return the path of the predictions of a run on the dev sets."""
        return storage.join(self.folder, predictions_file(run.task, run.seed))


def execute_run(
    plan: FineTunePlan,
    run: FineTuneRun,
    features: TaskFeatures,
    *,
    device: torch.device,
    workers: Workers | None = None,
) -> None:
    """Execute a run in this process, as one of its workers.

    Args:
        workers: None means the workers of the process group.
    """
    workers = workers or Workers.from_process_group()
    configure_cpu(plan.scaling.cpus_per_worker)
    configure_arithmetic(device, deterministic=plan.deterministic)
    folder = storage.join(plan.folder_of(run), _TRAINING_FOLDER)
    training = ClassifierTraining(
        model=_load_model(run).to(device),
        features=features,
        settings=run.settings,
        seed=run.seed,
        device=device,
        dtype=compute_dtype(plan.precision, device, any_worker=workers.any),
        workers=workers,
        teacher_outputs=_teacher_outputs(plan, run, features, device, workers),
        distillation=plan.distillation,
    )
    trained = None
    if run.start == ALREADY_FINE_TUNED:
        check_length(training.model, run.settings)
        if workers.rank == 0:
            save_classifier(training.model, storage.join(folder, MODEL_FOLDER), features.tokenizer_json)
    else:
        progress = _ProgressFile(plan.folder_of(run) if workers.rank == 0 else None)
        trained = fine_tune(training, folder=folder, on_step=progress.on_step)
    dev, test = training.outputs(features.dev), training.outputs(features.test if plan.with_test else {})
    if workers.rank == 0:
        _write_result(plan, run, trained, dev, test, features.dev_labels)


def _load_model(run: FineTuneRun) -> Any:
    task, model_dir = TASKS[run.task], localize(run.model_dir)
    if run.start == ALREADY_FINE_TUNED:
        return load_fine_tuned(model_dir, task)
    return load_classifier(model_dir, task, seed=run.seed, dropout=run.settings.dropout)


def _write_result(
    plan: FineTunePlan,
    run: FineTuneRun,
    trained: EvaluationHistory | None,
    dev: Outputs,
    test: Outputs,
    dev_labels: Outputs,
) -> None:
    """Write the predictions and then the result of a run. `trained` is None for a model that was only scored."""
    task, folder = TASKS[run.task], plan.folder_of(run)
    write_dev_predictions(plan.dev_predictions(run), task, dev, dev_labels)
    _write_json(folder, _PREDICTIONS_FILE, {name: predictions(task, each).tolist() for name, each in test.items()})
    # Compute the reported scores from the stored predictions, so that they agree exactly on every device.
    scores = task_scores(task, dev, dev_labels)
    fine_tuned = (
        _scored_only(scores) if trained is None else replace(trained, best=replace(trained.best, scores=scores))
    )
    _write_json(folder, _RESULT_FILE, {"identity": _identity(plan, run), "fine_tuned": asdict(fine_tuned)})


def _scored_only(scores: Mapping[str, float]) -> EvaluationHistory:
    """Return the history of a model that was fine-tuned elsewhere."""
    evaluation = Evaluation(number=1, step=0, epoch=0.0, scores=scores, train_loss=0.0, seconds=0.0)
    return EvaluationHistory(evaluation, [evaluation], planned=1, end_reason="complete")


def _teacher_outputs(
    plan: FineTunePlan, run: FineTuneRun, features: TaskFeatures, device: torch.device, workers: Workers
) -> NDArray[np.float32] | None:
    """Return the outputs of the fine-tuned teacher, (training rows, num_outputs); None without a teacher."""
    if plan.distillation is None:
        return None
    teacher_dir = storage.join(plan.distillation.teacher_run_dir, MODELS_FOLDER, run.task)
    teacher = load_fine_tuned(localize(teacher_dir), TASKS[run.task]).to(device)
    dtype = compute_dtype(plan.precision, device, any_worker=workers.any)
    return predict(teacher, features.train, pad_id=features.pad_id, device=device, dtype=dtype, workers=workers)


class _ProgressFile:
    """File with the completed steps of a run, for the progress display. Written at most every two seconds."""

    def __init__(self, folder: str | None, interval_s: float = 2.0) -> None:
        self._folder, self._interval_s, self._next = folder, interval_s, 0.0

    def on_step(self, step: int, steps: int) -> None:
        """Write the completed steps if the interval has passed."""
        if self._folder is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval_s
            _write_json(self._folder, _PROGRESS_FILE, {"step": step, "steps": steps})


def _identity(plan: FineTunePlan, run: FineTuneRun) -> dict[str, Any]:
    """Return the settings that determine the result of a run, in addition to its inputs."""
    distillation = None if plan.distillation is None else plan.distillation.identity_values()
    return {
        "task": run.task,
        "seed": run.seed,
        "start": run.start,
        "settings": run.settings.identity_values(),
        "precision": plan.precision,
        "deterministic": plan.deterministic,
        "distillation": distillation,
        "with_test": plan.with_test,
    }


def steps_done(plan: FineTunePlan, run: FineTuneRun, steps: int) -> int:
    """Return how many of its `steps` a run has completed."""
    file = storage.join(plan.folder_of(run), _PROGRESS_FILE)
    if is_done(plan, run):
        return steps
    if not storage.exists(file):
        return 0
    return int(json.loads(storage.read_bytes(file))["step"])


def rewind_progress(plan: FineTunePlan, run: FineTuneRun, steps: int) -> None:
    """Reset the shown progress of an interrupted run to its newest checkpoint, from which it will resume."""
    folder = plan.folder_of(run)
    step = newest_step(storage.join(folder, _TRAINING_FOLDER, CHECKPOINTS_FOLDER))
    _write_json(folder, _PROGRESS_FILE, {"step": step, "steps": steps})


def is_done(plan: FineTunePlan, run: FineTuneRun) -> bool:
    return storage.exists(storage.join(plan.folder_of(run), _RESULT_FILE))


def read_result(plan: FineTunePlan, run: FineTuneRun) -> FineTuneRunResult:
    """Return the result of a completed run.

    Raises:
        InputError: the folder contains the result of other settings, or has no dev predictions.
    """
    folder = plan.folder_of(run)
    record = json.loads(storage.read_bytes(storage.join(folder, _RESULT_FILE)))
    if record["identity"] != json.loads(json.dumps(_identity(plan, run))):
        raise InputError(f"{folder}: contains the result of other settings; delete it or choose another run_dir")
    if not storage.exists(plan.dev_predictions(run)):
        raise InputError(
            f"{folder}: has no dev predictions (from an earlier version); delete it or choose another run_dir"
        )
    values = record["fine_tuned"]
    evaluations = [Evaluation(**each) for each in values["evaluations"]]
    fine_tuned = EvaluationHistory(**{**values, "best": Evaluation(**values["best"]), "evaluations": evaluations})
    return FineTuneRunResult(run, fine_tuned, folder, plan.dev_predictions(run))


def _write_json(folder: str, name: str, values: Any) -> None:
    storage.write_bytes(storage.join(folder, name), json.dumps(values).encode())


def read_predictions(result: FineTuneRunResult) -> dict[str, Any]:
    """Return the predicted class ids or scores of a run by test set."""
    return {
        name: np.array(values)
        for name, values in json.loads(storage.read_bytes(storage.join(result.folder, _PREDICTIONS_FILE))).items()
    }
