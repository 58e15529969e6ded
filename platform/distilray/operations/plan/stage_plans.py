"""Estimate time, machines, cost and disk space of each stage of the pipeline."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from distilray.config.export import ExportModelConfig, Variant
from distilray.config.glue import EvaluateGlueConfig, TaskConfig, TaskName
from distilray.config.plan import PlanConfig, TextConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.finetuning.tasks import TASKS
from distilray.models.flops import ModelSize
from distilray.operations.plan.machines import CPU, DEVICES, Machine, find_machine, price_of
from distilray.operations.plan.simulation import ScaledRun
from distilray.operations.plan.workload import ExampleEstimate, TrainingEstimate, fine_tuning_work, worker_flops_per_s

# Wikitext that one core cleans per second, and its size relative to bz2: 716 MB from 204 MB (docs/benchmarks.md).
_WIKITEXT_MB_PER_S, _WIKITEXT_PER_BZ2 = 4.9, 3.51
_SPEEDUP_OF_TWO_CORES = 1.80  # measured; Ray itself takes the rest
_WORD_BYTES = 5.8  # including the space; books are cleaned faster than wikitext, but the same rate is used
_DOCUMENT_BYTES = 2.71  # Parquet bytes per word, measured on the sample
# Core seconds per token of the text, plus core seconds per token of each copy. They follow from 0.7 M tokens/s with one
# copy and 0.29 M tokens/s with ten (docs/benchmarks.md).
_ENCODE_S, _COPY_S = 1.204e-6, 0.2244e-6
_WRITE_FACTOR = 2.0  # building and encoding write temporary files of about the size of their output
# Bytes per parameter.
_VARIANT_BYTES: dict[Variant, float] = {"onnx": 4.0, "onnx-standard": 4.0, "onnx-int8": 1.1, "bf16": 2.0}
_EXPORT_S = 60.0  # per variant: load, trace and write
_WEIGHT_BYTES = 4.0
_GB, _HOUR = 1e9, 3600.0
# Mean tokens of a training example with [CLS] and [SEP], before truncation. CoLA, SST-2 and RTE were counted in the
# official files; the others were estimated from published histograms with an error of about 20%.
_MEAN_TOKENS: Mapping[TaskName, float] = {
    "cola": 11.3, "sst2": 13.3, "mrpc": 53.0, "stsb": 31.0, "qqp": 31.0, "mnli": 40.0, "qnli": 51.0, "rte": 70.2,
    "wnli": 37.0, "follows": 60.0,
}  # fmt: skip
_FOLLOWS_ROWS = {"train": (800,), "dev": (200,)}  # from its recipe
_STEP_FLOOR_S = 0.008  # a micro-step of the student alone (5.5 ms, see simulation.py) and the update


@dataclass(frozen=True)
class StagePlan:
    """Plan of a stage. `device_hours` counts all GPUs or cores; `cost` is in US dollars for whole machines."""

    stage: str
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
class StageMachines:
    """Machines of a stage, with the total number of their GPUs or cores."""

    machine: Machine
    count: int
    devices: int
    price_per_machine_hour: float

    def stage_plan(self, name: str, hours: float, written_gb: float, kept_gb: float, note: str) -> StagePlan:
        device = "GPU" if self.machine.device.is_gpu else "core"
        return StagePlan(
            stage=name,
            hours=hours,
            machines=self.count,
            machine=self.machine.name,
            devices=self.devices,
            device=device,
            price_per_machine_hour=self.price_per_machine_hour,
            written_gb=written_gb,
            kept_gb=kept_gb,
            note=note,
        )

    def independent_hours(self, core_s: float) -> float:
        """Return the hours that independent tasks of `core_s` core seconds take on all cores."""
        return core_s / (self.devices * _SPEEDUP_OF_TWO_CORES / 2) / _HOUR


def data_machines(config: PlanConfig) -> StageMachines:
    """Return the machines of the stages that process text.

    Raises:
        InputError: the table does not contain the machine.
    """
    cluster = config.cluster
    machine = find_machine(cluster.data_machine, "cluster.data_machine")
    price = cluster.data_price_per_machine_hour
    count = cluster.data_machines
    return StageMachines(machine, count, count * machine.cores, machine.price_per_hour if price is None else price)


def training_machines(config: PlanConfig, training: TrainingEstimate, run: ScaledRun) -> StageMachines:
    """Return the machines of a training run. If the recipe sets the price of a worker, each worker counts as a machine.

    Raises:
        InputError: the price is unknown.
    """
    machine = find_machine(config.cluster.machine, "cluster.machine")
    devices = run.workers * (1 if machine.device.is_gpu else training.config.scaling.cpus_per_worker)
    price = config.estimate.price_per_hour
    if price is not None:
        return StageMachines(machine, run.workers, devices, price)
    return StageMachines(machine, run.machines, devices, price_of(machine, config.cluster))


def corpus_plan(text: TextConfig, machines: StageMachines) -> StagePlan:
    words = text.wikipedia_words + text.book_words
    megabytes = text.dump_gb * 1e3 * _WIKITEXT_PER_BZ2 + text.book_words * _WORD_BYTES / 1e6
    hours, kept_gb = machines.independent_hours(megabytes / _WIKITEXT_MB_PER_S), words * _DOCUMENT_BYTES / _GB
    return machines.stage_plan("build_corpus", hours, _WRITE_FACTOR * kept_gb, kept_gb, f"{words / 1e9:.2f} G words")


def encoding_plan(examples: ExampleEstimate, config: EncodeCorpusConfig, machines: StageMachines) -> StagePlan:
    kept_gb = examples.shard_bytes / _GB
    hours = machines.independent_hours(examples.text_tokens * (_ENCODE_S + _COPY_S * config.dupe_factor))
    note = f"{examples.count:,} examples, {examples.tokens / 1e9:.2f} G tokens"
    return machines.stage_plan("encode_corpus", hours, _WRITE_FACTOR * kept_gb, kept_gb, note)


def distillation_plan(training: TrainingEstimate, run: ScaledRun, machines: StageMachines) -> StagePlan:
    note = f"{training.steps:,} steps, {training.tokens / 1e9:.2f} G tokens, {run.tokens_per_s:,.0f} tokens/s"
    return machines.stage_plan("distill", run.hours, training.written_gb, training.kept_gb, note)


@dataclass(frozen=True)
class FineTuningRuns:
    """Fine-tuning runs of a task; `seconds` is the time of one run on one worker."""

    task: TaskName
    count: int
    seconds: float


def fine_tuning_runs(
    config: EvaluateGlueConfig, model: ModelSize, *, flops_per_s: float, is_gpu: bool
) -> list[FineTuningRuns]:
    """Return the fine-tuning runs of `evaluate_glue`, by task.

    Args:
        flops_per_s: FLOPs per second of one worker.
        is_gpu: whether the launch of kernels limits the speed of small batches.
    """
    floor_s = _STEP_FLOOR_S if is_gpu else 0.0
    settings = {task: config.task_config(task) for task in config.tasks}
    return [
        FineTuningRuns(task, len(task_settings.seeds), _seconds(task, task_settings, model, flops_per_s, floor_s))
        for task, task_settings in settings.items()
    ]


def wall_seconds(task_runs: list[FineTuningRuns], parallel: int) -> float:
    """Return a lower bound for the total time with `parallel` runs at a time."""
    total = sum(runs.count * runs.seconds for runs in task_runs)
    return max(*(runs.seconds for runs in task_runs), total / parallel)


def _seconds(task: TaskName, settings: TaskConfig, model: ModelSize, flops_per_s: float, floor_s: float) -> float:
    rows = TASKS[task].row_counts or _FOLLOWS_ROWS
    train = min(max(rows["train"]), settings.max_train_examples or max(rows["train"]))
    dev = sum(max(counts) for split, counts in rows.items() if split.startswith("dev"))
    length = min(_MEAN_TOKENS[task], settings.max_length)

    def pass_s(examples: int, forward_passes: int, floor: float) -> float:
        tokens = round(examples * length)
        flops = forward_passes * model.forward_flops(tokens, round(tokens * length), 0)
        return max(flops / flops_per_s, math.ceil(examples / settings.batch_size) * floor)

    evaluations = settings.epochs * settings.evaluations_per_epoch
    # A backward pass costs as much as two forward passes.
    return settings.epochs * pass_s(train, 3, floor_s) + evaluations * pass_s(dev, 1, floor_s / 3)


def glue_plan(
    config: PlanConfig, training: TrainingEstimate, glue: EvaluateGlueConfig, run: ScaledRun, machines: StageMachines
) -> StagePlan:
    """Plan the fine-tuning runs on the workers of the distillation. Only the best model of each task is kept."""
    device = machines.machine.device
    rate = worker_flops_per_s(config, training, device, fine_tuning_work)
    task_runs = fine_tuning_runs(glue, training.student, flops_per_s=rate, is_gpu=device.is_gpu)
    parallel = max(1, min(run.workers, glue.scaling.max_parallel or run.workers) // glue.scaling.num_workers)
    model_gb = training.parameters * _WEIGHT_BYTES / _GB
    count = sum(runs.count for runs in task_runs)
    return machines.stage_plan(
        "evaluate_glue",
        wall_seconds(task_runs, parallel) / _HOUR,
        count * model_gb,
        len(task_runs) * model_gb,
        f"{count} fine-tuning runs of {len(task_runs)} tasks",
    )


def export_plan(
    training: TrainingEstimate, examples: ExampleEstimate, config: ExportModelConfig, machines: StageMachines
) -> StagePlan:
    """Plan the export: a single process runs the model and every variant on the text."""
    device, machine = DEVICES[CPU], machines.machine
    peak = device.peak("fp32")
    assert peak is not None
    tokens = round(config.max_examples * examples.mean_length)
    flops = training.student.forward_flops(
        tokens, round(tokens * examples.attended_length), round(tokens * examples.masked_share)
    )
    seconds = (1 + len(config.variants)) * flops / (peak * device.mfu["fp32"] * machine.cores)
    kept_gb = sum(_VARIANT_BYTES[variant] for variant in config.variants) * training.parameters / _GB
    single = dataclasses.replace(machines, count=1, devices=machine.cores)
    hours = (seconds + _EXPORT_S * len(config.variants)) / _HOUR
    return single.stage_plan("export_model", hours, kept_gb, kept_gb, ", ".join(config.variants))
