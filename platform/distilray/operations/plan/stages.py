"""Hours, machines, cost and disk of each stage of the pipeline."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from distilray.config.capacity import PlanConfig, TextConfig
from distilray.config.export import ExportModelConfig, Variant
from distilray.config.glue import EvaluateGlueConfig, TaskConfig, TaskName
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.finetuning.tasks import TASKS
from distilray.models.flops import ModelSize
from distilray.operations.plan.machines import CPU, DEVICES, Machine, find_machine, price_of
from distilray.operations.plan.simulation import ScaledRun
from distilray.operations.plan.workload import ExampleEstimate, TrainingEstimate, flops_per_s

# docs/benchmarks.md: MB of wikitext that a core cleans in a second; 716 MB of it were 204 MB of bz2.
_WIKITEXT_MB_PER_S, _WIKITEXT_OF_BZ2 = 4.9, 3.51
_CORES_OF_TWO = 1.80  # measured speedup of two cores over one; Ray uses the rest
_LETTERS = 5.8  # bytes of a word and its space; books are cleaned at the same rate, which is slower than they are
# Of the sample: bytes of documents as Parquet for a word.
_DOCUMENT_BYTES = 2.71
# docs/benchmarks.md: seconds of a core for a token of text, 1 / 0.7 M with one copy and 1 / 0.29 M with ten.
_ENCODE_S, _COPY_S = 1.204e-6, 0.2244e-6
# Both stages write temporary files of about the size of their output.
_TIMES_WRITTEN = 2.0
_BYTES: dict[Variant, float] = {"onnx": 4.0, "onnx-standard": 4.0, "onnx-int8": 1.1, "bf16": 2.0}  # of a parameter
_EXPORT_S = 60.0  # to load, trace and write
_WEIGHT_BYTES = 4.0
_GB, _HOUR = 1e9, 3600.0
# Mean tokens of a training example with [CLS] and [SEP], before it is cut. CoLA, SST-2 and RTE are counted in the
# official files; the others are estimates by eye of published histograms, good to a fifth or so.
_MEAN_TOKENS: Mapping[TaskName, float] = {
    "cola": 11.3, "sst2": 13.3, "mrpc": 53.0, "stsb": 31.0, "qqp": 31.0, "mnli": 40.0, "qnli": 51.0, "rte": 70.2,
    "wnli": 37.0, "follows": 60.0,
}  # fmt: skip
_FOLLOWS_ROWS = {"train": (800,), "dev": (200,)}  # of its recipe
_STEP_FLOOR_S = 0.008  # a micro-step of the student alone, 5.5 ms (see simulation.py), and the update


@dataclass(frozen=True)
class StagePlan:
    """A stage: `device_hours` are hours of all its GPUs or cores, `cost` is in US dollars for whole machines."""

    station: str
    hours: float
    machines: int
    machine: str
    devices: int
    device: str
    price_per_machine_hour: float
    written_gb: float
    kept_gb: float
    note: str = ""

    @property
    def machine_hours(self) -> float:
        return self.hours * self.machines

    @property
    def device_hours(self) -> float:
        return self.hours * self.devices

    @property
    def cost(self) -> float:
        return self.machine_hours * self.price_per_machine_hour


@dataclass(frozen=True)
class Provision:
    """Machines of a stage, and their GPUs or cores."""

    machine: Machine
    count: int
    devices: int
    price_per_machine_hour: float

    def stage(self, name: str, hours: float, written_gb: float, kept_gb: float, note: str) -> StagePlan:
        unit, price = "GPU" if self.machine.device.is_gpu else "core", self.price_per_machine_hour
        machine, sizes = self.machine.name, (written_gb, kept_gb)
        return StagePlan(name, hours, self.count, machine, self.devices, unit, price, *sizes, note)

    def independent_hours(self, core_s: float) -> float:
        """Return the hours of independent tasks on all cores."""
        return core_s / (self.devices * _CORES_OF_TWO / 2) / _HOUR


def data_machines(config: PlanConfig) -> Provision:
    """Return the machines of the stages that process text.

    Raises:
        InputError: the table has no such machine.
    """
    cluster = config.cluster
    machine = find_machine(cluster.data_machine, "cluster.data_machine")
    price = cluster.data_price_per_machine_hour
    count = cluster.data_machines
    return Provision(machine, count, count * machine.cores, machine.price_per_hour if price is None else price)


def training_machines(config: PlanConfig, training: TrainingEstimate, run: ScaledRun) -> Provision:
    """Return the machines of a run: whole ones, or workers where the recipe has their price.

    Raises:
        InputError: no price is known.
    """
    machine = find_machine(config.cluster.machine, "cluster.machine")
    devices = run.workers * (1 if machine.device.is_gpu else training.config.scaling.cpus_per_worker)
    price = config.estimate.price_per_hour
    if price is not None:
        return Provision(machine, run.workers, devices, price)
    return Provision(machine, run.machines, devices, price_of(machine, config.cluster))


def corpus_plan(text: TextConfig, machines: Provision) -> StagePlan:
    words = text.wikipedia_words + text.book_words
    megabytes = text.dump_gb * 1e3 * _WIKITEXT_OF_BZ2 + text.book_words * _LETTERS / 1e6
    hours, kept_gb = machines.independent_hours(megabytes / _WIKITEXT_MB_PER_S), words * _DOCUMENT_BYTES / _GB
    return machines.stage("build_corpus", hours, _TIMES_WRITTEN * kept_gb, kept_gb, f"{words / 1e9:.2f} G words")


def encoding_plan(examples: ExampleEstimate, config: EncodeCorpusConfig, machines: Provision) -> StagePlan:
    kept_gb = examples.shard_bytes / _GB
    hours = machines.independent_hours(examples.text_tokens * (_ENCODE_S + _COPY_S * config.dupe_factor))
    note = f"{examples.count:,} examples, {examples.tokens / 1e9:.2f} G tokens"
    return machines.stage("encode_corpus", hours, _TIMES_WRITTEN * kept_gb, kept_gb, note)


def distillation_plan(training: TrainingEstimate, run: ScaledRun, machines: Provision) -> StagePlan:
    note = f"{training.steps:,} steps, {training.tokens / 1e9:.2f} G tokens, {run.tokens_per_s:,.0f} tokens/s"
    return machines.stage("distill", run.hours, training.written_gb, training.kept_gb, note)


@dataclass(frozen=True)
class FineTunings:
    """The fine-tunings of a task; `seconds` are those of one of them, on one worker."""

    task: TaskName
    count: int
    seconds: float


def fine_tunings(
    config: EvaluateGlueConfig, model: ModelSize, *, flops_per_s: float, is_gpu: bool
) -> list[FineTunings]:
    """Return the fine-tunings of `evaluate_glue`, by task.

    Args:
        flops_per_s: that one worker reaches.
        is_gpu: whether kernels have to be launched, which small batches wait for.
    """
    floor_s = _STEP_FLOOR_S if is_gpu else 0.0
    settings = {task: config.task_config(task) for task in config.tasks}
    return [
        FineTunings(task, len(each.seeds), _seconds(task, each, model, flops_per_s, floor_s))
        for task, each in settings.items()
    ]


def wall_seconds(tunings: list[FineTunings], parallel: int) -> float:
    """Return the time with some number at once: the longest, or the share of all, whichever is more."""
    return max(*(one.seconds for one in tunings), sum(one.count * one.seconds for one in tunings) / parallel)


def _seconds(task: TaskName, settings: TaskConfig, model: ModelSize, flops_per_s: float, floor_s: float) -> float:
    rows = TASKS[task].rows or _FOLLOWS_ROWS
    train = min(max(rows["train"]), settings.max_train_examples or max(rows["train"]))
    evaluated = sum(max(counts) for split, counts in rows.items() if split.startswith("dev"))
    length = min(_MEAN_TOKENS[task], settings.max_length)

    def forward_s(examples: int, backward: int, floor: float) -> float:
        tokens = round(examples * length)
        flops = (1 + backward) * model.forward_flops(tokens, round(tokens * length), 0)
        return max(flops / flops_per_s, math.ceil(examples / settings.batch_size) * floor)

    scored = settings.epochs * settings.evaluations_per_epoch
    return settings.epochs * forward_s(train, 2, floor_s) + scored * forward_s(evaluated, 0, floor_s / 3)


def glue_plan(
    config: PlanConfig, training: TrainingEstimate, glue: EvaluateGlueConfig, run: ScaledRun, machines: Provision
) -> StagePlan:
    """Plan one fine-tuning on each worker of the distillation; the best model of each task is kept."""
    device = machines.machine.device
    rate = flops_per_s(config, training, device)
    tunings = fine_tunings(glue, training.student, flops_per_s=rate, is_gpu=device.is_gpu)
    parallel = max(1, min(run.workers, glue.scaling.max_parallel or run.workers) // glue.scaling.num_workers)
    model_gb = training.parameters * _WEIGHT_BYTES / _GB
    count = sum(one.count for one in tunings)
    return machines.stage(
        "evaluate_glue",
        wall_seconds(tunings, parallel) / _HOUR,
        count * model_gb,
        len(tunings) * model_gb,
        f"{count} fine-tunings of {len(tunings)} tasks",
    )


def export_plan(
    training: TrainingEstimate, examples: ExampleEstimate, config: ExportModelConfig, machines: Provision
) -> StagePlan:
    """Plan one process on one machine; every variant and the model itself read the text."""
    device, machine = DEVICES[CPU], machines.machine
    peak = device.peak("fp32")
    assert peak is not None
    tokens = round(config.max_examples * examples.mean_length)
    flops = training.student.forward_flops(
        tokens, round(tokens * examples.squared_length), round(tokens * examples.masked_share)
    )
    seconds = (1 + len(config.variants)) * flops / (peak * device.mfu["fp32"] * machine.cores)
    kept_gb = sum(_BYTES[variant] for variant in config.variants) * training.parameters / _GB
    single = dataclasses.replace(machines, count=1, devices=machine.cores)
    hours = (seconds + _EXPORT_S * len(config.variants)) / _HOUR
    return single.stage("export_model", hours, kept_gb, kept_gb, ", ".join(config.variants))
