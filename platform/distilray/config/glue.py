"""What the recipes of `jobs.evaluate_glue` and `jobs.search_glue` may say."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import (
    Config,
    Count,
    Fraction,
    FractionBelowOne,
    GlueDir,
    GlueRun,
    InputName,
    ModelRef,
    NonNegative,
    Positive,
    RayJobConfig,
    SeededConfig,
)

TaskName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "follows"]
Method = Literal["grid", "random", "tpe"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

SCORE = "score"  # the mean of the metrics of a task
GLUE_TASKS: tuple[TaskName, ...] = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


class FineTuneConfig(Config):
    """One fine-tuning: AdamW, warm-up, decay to 0."""

    learning_rate: Positive = 3e-5
    batch_size: Count = Field(default=32, description="examples of a step, over all workers")
    epochs: Count = 3
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_fraction: Fraction = 0.06
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0
    dropout: FractionBelowOne | None = Field(
        default=None, description="of encoder and head; the model's own when left out"
    )
    max_length: Annotated[int, Field(ge=8, le=512)] = Field(default=128, description="tokens; longer texts are cut")
    evaluations_per_epoch: Count = 1
    patience: Count | None = Field(
        default=None, description="evaluations without a better score after which training stops; never when left out"
    )


class TaskConfig(FineTuneConfig):
    """The fine-tunings of a task: the settings of one, and how often with which seeds."""

    metric: str = Field(
        default=SCORE, description="what the best evaluation is known by; score: the task's metrics' mean"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(default=[1, 2, 3, 4, 5])
    max_train_examples: Count | None = Field(
        default=None, description="the first of a random order; every score of such a run says so"
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds {self.seeds}: one is given twice, and its fine-tuning would count twice; name each once"
            )
        return self


class FineTuneScaling(Config):
    """Workers of one fine-tuning, and how many of them run at a time."""

    identity: ClassVar[bool] = False
    num_workers: Count = 1
    use_gpu: bool = True
    cpus_per_worker: Count = 4
    max_parallel: Count | None = Field(
        default=None, description="fine-tunings at a time; as many as the cluster has room for when left out"
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(default=2, description="restarts of one after a worker died")


class TaskDistillationConfig(Config):
    """A second distillation, from a teacher that was fine-tuned on the same task (DistilBERT paper, section 4)."""

    teacher_run_dir: Annotated[GlueRun, InputName("fine_tuned_teacher")] = Field(
        description="run folder of jobs.evaluate_glue of the teacher"
    )
    temperature: Positive = 2.0
    alpha: Fraction = Field(default=0.5, description="share of the teacher's part in the loss")


class GlueConfig(SeededConfig, RayJobConfig):
    """What both jobs on GLUE read."""

    model_dir: ModelRef = Field(description="run or model folder, URI of one, or hub:OWNER/NAME; BERT or DistilBERT")
    glue_dir: GlueDir = Field(
        description="folder with a folder for each task: the official TSV files, or the hub's Parquet files"
    )
    tasks: Annotated[list[TaskName], Field(min_length=1)] = Field(default=list(GLUE_TASKS))
    allow_other_row_counts: bool = Field(
        default=False,
        description="accept any number of train and dev rows, of another release or your own; every score says so",
    )
    fine_tuning: TaskConfig = TaskConfig()
    per_task: dict[TaskName, TaskConfig] = Field(default={}, description="what differs from fine_tuning, by task")
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def task_config(self, task: TaskName) -> TaskConfig:
        """The settings of a task: `fine_tuning`, with what `per_task` says of it."""
        return merged(self.fine_tuning, self.per_task.get(task))

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: one of {', '.join(self.tasks)} is given twice; name each once")
        return self


class SubmissionConfig(Config):
    """The zip of test predictions that gluebenchmark.com takes."""

    write: bool = Field(
        default=False, description="predict the test sets, and write submission.zip when none is absent"
    )
    fill_missing: bool = Field(
        default=False, description="fill absent tasks with one answer for every row, which the output says"
    )


class EvaluateGlueConfig(GlueConfig):
    """Recipe of `jobs.evaluate_glue`."""

    scaling: FineTuneScaling = FineTuneScaling()
    train: bool = Field(
        default=True,
        description="false: score model_dir as it is; it was fine-tuned on the task that tasks names",
    )
    start_from_mnli: bool = Field(
        default=False, description="RTE, MRPC and STS-B start from the model fine-tuned on MNLI in this run"
    )
    distillation: TaskDistillationConfig | None = None
    teacher_run_dir: Annotated[GlueRun, InputName("teacher")] | None = Field(
        default=None, description="run folder of this job of the teacher: the table tells which share of it is kept"
    )
    submission: SubmissionConfig = SubmissionConfig()

    @model_validator(mode="after")
    def _mnli_is_there(self) -> Self:
        if self.start_from_mnli and "mnli" not in self.tasks:
            raise ValueError("start_from_mnli: needs mnli among the tasks; add it, or set start_from_mnli=false")
        return self

    @model_validator(mode="after")
    def _trains_if_asked_to(self) -> Self:
        if not self.train and len(self.tasks) > 1:
            raise ValueError("train: with false, model_dir is fine-tuned on one task; name it, as in tasks=[rte]")
        for name in ("start_from_mnli", "distillation"):
            if getattr(self, name) and not self.train:
                raise ValueError(f"{name}: does nothing with train=false; leave it out")
        return self


class RangeConfig(Config):
    """The values that a parameter may take in a search: one of the kinds below."""

    choice: Annotated[list[float | int | str], Field(min_length=1)] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[Positive, Positive] | None = None
    integers: tuple[int, int] | None = Field(default=None, description="both ends included")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "no value"
            raise ValueError(f"{told} given; give one of choice: [...], uniform, loguniform or integers: [low, high]")
        low_high = getattr(self, given[0])
        if given[0] != "choice" and not low_high[0] < low_high[1]:
            raise ValueError(f"{given[0]}: {low_high[0]} is not below {low_high[1]}")
        return self


Space = dict[str, RangeConfig]


class AshaConfig(Config):
    """Early end of trials that are behind others (Li et al. 2018)."""

    enabled: bool = True
    grace_evaluations: Count = Field(default=1, description="evaluations that every trial gets")
    reduction_factor: Annotated[float, Field(gt=1.0)] = Field(
        default=3.0, description="one of so many trials goes on at each rung"
    )


class TrialConfig(Config):
    """What one trial is given."""

    identity: ClassVar[bool] = False
    cpus: Positive = 1.0
    gpus: Annotated[float, Field(ge=0.0, le=1.0)] = Field(default=0.25, description="of a device; 0 for none")
    memory_gb: Positive | None = Field(
        default=None, description="memory of the device, or of the machine without one; estimated when left out"
    )
    max_minutes: Positive | None = Field(default=None, description="a trial that takes longer ends where it is")


class SearchGlueConfig(GlueConfig):
    """Recipe of `jobs.search_glue`."""

    method: Method = "random"
    num_trials: Count = Field(default=20, description="for each task; a grid has as many as it has points")
    space: Annotated[Space, Field(min_length=1)]
    per_task_space: dict[TaskName, Space] = Field(default={}, description="ranges of a task in place of those of space")
    asha: AshaConfig = AshaConfig()
    trial: TrialConfig = TrialConfig()
    max_minutes: Positive | None = Field(
        default=None, description="of the search of each task; trials that have not ended then are stopped"
    )

    def task_space(self, task: TaskName) -> Space:
        """The ranges that are searched for a task."""
        return {**self.space, **self.per_task_space.get(task, {})}

    @model_validator(mode="after")
    def _ranges_fit(self) -> Self:
        known = list(FineTuneConfig.model_fields)
        for task in self.tasks:
            for name, values in self.task_space(task).items():
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
                    raise ValueError(f"space.{name}: no such setting of a fine-tuning; {hint}")
                if self.method == "grid" and values.choice is None:
                    raise ValueError(f"space.{name}: a grid needs choice: [...]")
                self._check_values(task, name, values)
            if self.seed in self.task_config(task).seeds:
                raise ValueError(
                    f"seed: {self.seed} is among the seeds of {task}, which score the winner; choose another"
                )
        return self

    def _check_values(self, task: TaskName, name: str, values: RangeConfig) -> None:
        """Refuses a value that a fine-tuning would refuse, before the search begins."""
        ends = values.choice or values.uniform or values.loguniform or values.integers or ()
        for value in ends:
            try:
                with_values(self.task_config(task), {name: value})
            except ValueError as error:
                reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error
                raise ValueError(f"space.{name}: {value!r} is not possible ({reason})") from None


def merged(base: TaskConfig, changes: TaskConfig | None) -> TaskConfig:
    """`base` with the fields that `changes` sets."""
    given = {} if changes is None else {name: getattr(changes, name) for name in changes.model_fields_set}
    return base.model_copy(update=given)


def with_values(settings: TaskConfig, values: Mapping[str, Any]) -> TaskConfig:
    """`settings` with the values of a trial.

    Raises:
        ValidationError: a value is out of its bounds.
    """
    return TaskConfig.model_validate({**settings.model_dump(), **values})
