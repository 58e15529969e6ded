"""Hours, machines, cost and disk of each stage of the pipeline."""

import dataclasses
from dataclasses import dataclass

from distilray.config.export import ExportModelConfig, Variant
from distilray.config.glue import EvaluateGlueConfig
from distilray.config.operations.capacity import PlanConfig, TextConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.operations.plan.devices import CPU, DEVICES, Machine, machine_named, price_of
from distilray.operations.plan.fine_tuning import fine_tunings, wall_seconds
from distilray.operations.plan.rates import flops_per_s
from distilray.operations.plan.scaling import ScaledRun
from distilray.operations.plan.workload import Examples, Training

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


@dataclass(frozen=True)
class StationPlan:
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

    def stage(self, name: str, hours: float, written_gb: float, kept_gb: float, note: str) -> StationPlan:
        return StationPlan(
            name,
            hours,
            self.count,
            self.machine.name,
            self.devices,
            "GPU" if self.machine.device.is_gpu else "core",
            self.price_per_machine_hour,
            written_gb,
            kept_gb,
            note,
        )

    def independent_hours(self, core_s: float) -> float:
        """Return the hours of independent tasks on all cores."""
        return core_s / (self.devices * _CORES_OF_TWO / 2) / _HOUR


def data_machines(config: PlanConfig) -> Provision:
    """Return the machines of the stages that process text.

    Raises:
        InputError: the table has no such machine.
    """
    cluster = config.cluster
    machine = machine_named(cluster.data_machine, "cluster.data_machine")
    price = cluster.data_price_per_machine_hour
    count = cluster.data_machines
    return Provision(machine, count, count * machine.cores, machine.price_per_hour if price is None else price)


def training_machines(config: PlanConfig, training: Training, run: ScaledRun) -> Provision:
    """Return the machines of a run: whole ones, or workers where the recipe has their price.

    Raises:
        InputError: no price is known.
    """
    machine = machine_named(config.cluster.machine, "cluster.machine")
    devices = run.workers * (1 if machine.device.is_gpu else training.config.scaling.cpus_per_worker)
    price = config.estimate.price_per_hour
    if price is not None:
        return Provision(machine, run.workers, devices, price)
    return Provision(machine, run.machines, devices, price_of(machine, config.cluster))


def corpus_plan(text: TextConfig, machines: Provision) -> StationPlan:
    words = text.wikipedia_words + text.book_words
    megabytes = text.dump_gb * 1e3 * _WIKITEXT_OF_BZ2 + text.book_words * _LETTERS / 1e6
    hours, kept_gb = machines.independent_hours(megabytes / _WIKITEXT_MB_PER_S), words * _DOCUMENT_BYTES / _GB
    return machines.stage("build_corpus", hours, _TIMES_WRITTEN * kept_gb, kept_gb, f"{words / 1e9:.2f} G words")


def encoding_plan(examples: Examples, config: EncodeCorpusConfig, machines: Provision) -> StationPlan:
    kept_gb = examples.shard_bytes / _GB
    hours = machines.independent_hours(examples.text_tokens * (_ENCODE_S + _COPY_S * config.dupe_factor))
    note = f"{examples.count:,} examples, {examples.tokens / 1e9:.2f} G tokens"
    return machines.stage("encode_corpus", hours, _TIMES_WRITTEN * kept_gb, kept_gb, note)


def distillation_plan(training: Training, run: ScaledRun, machines: Provision) -> StationPlan:
    note = f"{training.steps:,} steps, {training.tokens / 1e9:.2f} G tokens, {run.tokens_per_s:,.0f} tokens/s"
    return machines.stage("distill", run.hours, training.written_gb, training.kept_gb, note)


def glue_plan(
    config: PlanConfig, training: Training, glue: EvaluateGlueConfig, run: ScaledRun, machines: Provision
) -> StationPlan:
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


def export_plan(training: Training, examples: Examples, config: ExportModelConfig, machines: Provision) -> StationPlan:
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
