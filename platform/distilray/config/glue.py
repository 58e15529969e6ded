"""Configs of `jobs.evaluate_glue` and `jobs.search_glue`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import (
    Config,
    Count,
    Deterministic,
    Fraction,
    FractionBelowOne,
    GlueDir,
    GlueRun,
    InputName,
    ModelRef,
    NonNegative,
    Positive,
    PrecisionSetting,
    RayJobConfig,
    SeededConfig,
)
from distilray.config.recipe import hint

TaskName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "follows"]
Method = Literal["grid", "random", "tpe"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

SCORE = "score"  # mean of the metrics of a task
GLUE_TASKS: tuple[TaskName, ...] = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


class FineTuneConfig(Config):
    """One fine-tuning run: AdamW with warm-up and decay to 0."""

    learning_rate: Positive = 3e-5
    batch_size: Count = Field(default=32, description="examples per step, over all workers")
    epochs: Count = 3
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_fraction: Fraction = 0.06
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0
    dropout: FractionBelowOne | None = Field(
        default=None, description="dropout of encoder and head; default: from the model's own config"
    )
    max_length: Annotated[int, Field(ge=8, le=512)] = Field(
        default=128, description="in tokens; longer texts are truncated"
    )
    evaluations_per_epoch: Count = 1
    patience: Count | None = Field(
        default=None, description="stop after this many evaluations without improvement; default: never"
    )


class TaskConfig(FineTuneConfig):
    """Fine-tuning runs of a task: the settings that they share and their seeds."""

    metric: str = Field(
        default=SCORE, description="metric that selects the best evaluation; score: mean of all metrics"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(default=[1, 2, 3, 4, 5])
    max_train_examples: Count | None = Field(
        default=None, description="use a random subset of this size, which is noted in every score"
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds {self.seeds}: contains a duplicate, which would be counted twice; list each seed once"
            )
        return self


class FineTuneScaling(Config):
    """Workers of one fine-tuning run, and the number of concurrent runs."""

    identity: ClassVar[bool] = False
    num_workers: Count = 1
    use_gpu: bool = True
    cpus_per_worker: Count = 4
    max_parallel: Count | None = Field(
        default=None, description="concurrent fine-tuning runs; default: as many as the cluster has room for"
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(
        default=2, description="restarts of a fine-tuning run after a worker died"
    )


class TaskDistillationConfig(Config):
    """Second distillation, from a teacher fine-tuned on the same task (DistilBERT paper, section 4)."""

    teacher_run_dir: Annotated[GlueRun, InputName("fine_tuned_teacher")] = Field(
        description="run folder of jobs.evaluate_glue for the teacher"
    )
    temperature: Positive = 2.0
    alpha: Fraction = Field(default=0.5, description="weight of the distillation loss; 1 - alpha for the labels")


class GlueConfig(SeededConfig, RayJobConfig):
    """Settings of both GLUE jobs."""

    model_dir: ModelRef = Field(
        description="BERT or DistilBERT: run folder, model folder or URI of one, or hub:OWNER/NAME"
    )
    glue_dir: GlueDir = Field(
        description="folder with one subfolder per task: the official TSV files or the Parquet files of the hub"
    )
    tasks: Annotated[list[TaskName], Field(min_length=1)] = Field(default=list(GLUE_TASKS))
    allow_other_row_counts: bool = Field(
        default=False,
        description="accept train and dev sets of any size (another release, or your own data); every score notes it",
    )
    fine_tuning: TaskConfig = TaskConfig()
    per_task: dict[TaskName, TaskConfig] = Field(default={}, description="settings that override fine_tuning, by task")
    precision: PrecisionSetting = "auto"
    deterministic: Deterministic = False

    def task_config(self, task: TaskName) -> TaskConfig:
        """Return the settings of a task: `fine_tuning`, overridden by `per_task`."""
        return merge_settings(self.fine_tuning, self.per_task.get(task))

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: {', '.join(self.tasks)} contains a duplicate; list each task once")
        return self


class SubmissionConfig(Config):
    """Zip file of test predictions for gluebenchmark.com."""

    write: bool = Field(
        default=False, description="predict the test sets, and write submission.zip if every test set is present"
    )
    fill_missing: bool = Field(
        default=False, description="fill missing tasks with one constant answer, which the output reports"
    )


class EvaluateGlueConfig(GlueConfig):
    """Recipe of `jobs.evaluate_glue`."""

    scaling: FineTuneScaling = FineTuneScaling()
    train: bool = Field(
        default=True,
        description="false: score model_dir without training; it must be fine-tuned on the task in `tasks`",
    )
    start_from_mnli: bool = Field(
        default=False, description="start RTE, MRPC and STS-B from the model that this run fine-tuned on MNLI"
    )
    distillation: TaskDistillationConfig | None = None
    teacher_run_dir: Annotated[GlueRun, InputName("teacher")] | None = Field(
        default=None, description="run folder of this job for the teacher; adds the retained share to the table"
    )
    submission: SubmissionConfig = SubmissionConfig()

    @model_validator(mode="after")
    def _mnli_is_trained(self) -> Self:
        if self.start_from_mnli and "mnli" not in self.tasks:
            raise ValueError("start_from_mnli: needs mnli among the tasks; add it, or set start_from_mnli=false")
        return self

    @model_validator(mode="after")
    def _settings_fit_train(self) -> Self:
        if not self.train and len(self.tasks) > 1:
            raise ValueError(
                "train: false scores only the task that model_dir was fine-tuned on; name it, as in tasks=[rte]"
            )
        for name in ("start_from_mnli", "distillation"):
            if getattr(self, name) and not self.train:
                raise ValueError(f"{name}: has no effect with train=false; remove it")
        return self


class RangeConfig(Config):
    """Values of a parameter in a search, in exactly one of the forms below."""

    choice: Annotated[list[float | int | str], Field(min_length=1)] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[Positive, Positive] | None = None
    integers: tuple[int, int] | None = Field(default=None, description="inclusive bounds")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [form for form in type(self).model_fields if getattr(self, form) is not None]
        if len(forms) != 1:
            listed = " and ".join(forms) or "no value"
            raise ValueError(
                f"{listed} set; set exactly one of choice: [...], uniform, loguniform or integers: [low, high]"
            )
        values = getattr(self, forms[0])
        if forms[0] != "choice" and not values[0] < values[1]:
            raise ValueError(f"{forms[0]}: {values[0]} is not below {values[1]}")
        return self


Space = dict[str, RangeConfig]


class AshaConfig(Config):
    """Early stopping of trials that fall behind (ASHA; Li et al. 2018)."""

    enabled: bool = True
    grace_evaluations: Count = Field(default=1, description="evaluations before a trial can be stopped")
    reduction_factor: Annotated[float, Field(gt=1.0)] = Field(
        default=3.0, description="one in this many trials continues at each rung"
    )


class TrialConfig(Config):
    """Resources of one trial."""

    identity: ClassVar[bool] = False
    cpus: Positive = 1.0
    gpus: Annotated[float, Field(ge=0.0, le=1.0)] = Field(default=0.25, description="fraction of a GPU; 0 for none")
    memory_gb: Positive | None = Field(
        default=None, description="device memory, or host memory without a GPU; default: estimated"
    )
    max_minutes: Positive | None = Field(default=None, description="time limit, at which the trial is stopped")


class SearchGlueConfig(GlueConfig):
    """Recipe of `jobs.search_glue`."""

    method: Method = "random"
    num_trials: Count = Field(default=20, description="trials per task; a grid has as many as it has points")
    space: Annotated[Space, Field(min_length=1)]
    per_task_space: dict[TaskName, Space] = Field(
        default={}, description="ranges that override those of space, by task"
    )
    asha: AshaConfig = AshaConfig()
    trial: TrialConfig = TrialConfig()
    max_minutes: Positive | None = Field(
        default=None, description="time limit for the search of each task, at which unfinished trials are stopped"
    )

    def task_space(self, task: TaskName) -> Space:
        """Return the search space of a task."""
        return {**self.space, **self.per_task_space.get(task, {})}

    @model_validator(mode="after")
    def _ranges_are_valid(self) -> Self:
        known = list(FineTuneConfig.model_fields)
        for task in self.tasks:
            for name, values in self.task_space(task).items():
                if name not in known:
                    raise ValueError(f"space.{name}: no such setting of a fine-tuning run; {hint(name, known)}")
                if self.method == "grid" and values.choice is None:
                    raise ValueError(f"space.{name}: a grid needs choice: [...]")
                self._check_values(task, name, values)
            if self.seed in self.task_config(task).seeds:
                raise ValueError(
                    f"seed: {self.seed} is among the seeds of {task}, which score the winner; choose another"
                )
        return self

    def _check_values(self, task: TaskName, name: str, values: RangeConfig) -> None:
        """Reject values that a fine-tuning run would reject, before the search starts."""
        candidates = values.choice or values.uniform or values.loguniform or values.integers or ()
        for value in candidates:
            try:
                with_values(self.task_config(task), {name: value})
            except ValueError as error:
                reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error
                raise ValueError(f"space.{name}: {value!r} is invalid ({reason})") from None


def merge_settings(base: TaskConfig, changes: TaskConfig | None) -> TaskConfig:
    """Return `base` updated with the fields that are set in `changes`."""
    fields = {} if changes is None else {name: getattr(changes, name) for name in changes.model_fields_set}
    return base.model_copy(update=fields)


def with_values(settings: TaskConfig, values: Mapping[str, Any]) -> TaskConfig:
    """Return `settings` updated with the values of a trial.

    Raises:
        ValidationError: a value is out of bounds.
    """
    return TaskConfig.model_validate({**settings.model_dump(), **values})
