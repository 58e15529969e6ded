"""What each station of the line takes: hours, machines, money, disk."""

from dataclasses import dataclass

from distilray.config.export.variants import ExportModelConfig, Variant
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
_CORES_OF_TWO = 1.80  # what two cores do of one's work there: the rest goes to Ray
_LETTERS = 5.8  # bytes of a word and its space; books are cleaned at the same rate, which is slower than they are
# Of the sample: bytes of documents as Parquet for a word.
_DOCUMENT_BYTES = 2.71
# docs/benchmarks.md: seconds of a core for a token of text, 1 / 0.7 M with one copy and 1 / 0.29 M with ten.
_ENCODE_S, _COPY_S = 1.204e-6, 0.2244e-6
# Both stations write files of work before those that stay, about as large.
_TIMES_WRITTEN = 2.0
_BYTES: dict[Variant, float] = {"onnx": 4.0, "onnx-standard": 4.0, "onnx-int8": 1.1, "bf16": 2.0}  # of a parameter
_EXPORT_S = 60.0  # to load, trace and write
_WEIGHT_BYTES = 4.0
_GB, _HOUR = 1e9, 3600.0


@dataclass(frozen=True)
class StationPlan:
    """A station. `device_hours` are hours of all its GPUs or cores, `cost` is in US dollars."""

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
        """Hours that are paid."""
        return self.hours * self.machines

    @property
    def device_hours(self) -> float:
        """Hours of the GPUs or cores that work."""
        return self.hours * self.devices

    @property
    def cost(self) -> float:
        """Of the machines, whole ones."""
        return self.machine_hours * self.price_per_machine_hour


@dataclass(frozen=True)
class DataMachines:
    """The machines of the stations that work on text."""

    machine: Machine
    count: int
    price_per_machine_hour: float

    @property
    def cores(self) -> int:
        """Of all of them."""
        return self.count * self.machine.cores

    def station(self, name: str, core_s: float, written_gb: float, kept_gb: float, note: str) -> StationPlan:
        """A station of tasks that need not wait for each other, on all cores."""
        wanted = self.cores * _CORES_OF_TWO / 2
        return StationPlan(
            name,
            core_s / wanted / _HOUR,
            self.count,
            self.machine.name,
            self.cores,
            "core",
            self.price_per_machine_hour,
            written_gb,
            kept_gb,
            note,
        )


def data_machines(config: PlanConfig) -> DataMachines:
    """Those of the recipe.

    Raises:
        InputError: the table has no such machine.
    """
    cluster = config.cluster
    machine = machine_named(cluster.data_machine, "cluster.data_machine")
    price = cluster.data_price_per_machine_hour
    return DataMachines(machine, cluster.data_machines, machine.price_per_hour if price is None else price)


def corpus_plan(text: TextConfig, hired: DataMachines) -> StationPlan:
    """`build_corpus`."""
    words = text.wikipedia_words + text.book_words
    megabytes = text.dump_gb * 1e3 * _WIKITEXT_OF_BZ2 + text.book_words * _LETTERS / 1e6
    kept_gb = words * _DOCUMENT_BYTES / _GB
    return hired.station(
        "build_corpus", megabytes / _WIKITEXT_MB_PER_S, _TIMES_WRITTEN * kept_gb, kept_gb, f"{words / 1e9:.2f} G words"
    )


def encoding_plan(examples: Examples, config: EncodeCorpusConfig, hired: DataMachines) -> StationPlan:
    """`encode_corpus`."""
    kept_gb = examples.shard_bytes / _GB
    core_s = examples.text_tokens * (_ENCODE_S + _COPY_S * config.dupe_factor)
    note = f"{examples.count:,} examples, {examples.tokens / 1e9:.2f} G tokens"
    return hired.station("encode_corpus", core_s, _TIMES_WRITTEN * kept_gb, kept_gb, note)


def distillation_plan(config: PlanConfig, training: Training, run: ScaledRun) -> StationPlan:
    """`distill`, on the workers of its recipe."""
    machine = machine_named(config.cluster.machine, "cluster.machine")
    price, hired = training_price(config, run)
    return StationPlan(
        "distill",
        run.hours,
        hired,
        machine.name,
        run.workers * (1 if machine.device.is_gpu else training.config.scaling.cpus_per_worker),
        "GPU" if machine.device.is_gpu else "core",
        price,
        training.written_gb,
        training.kept_gb,
        f"{training.steps:,} steps, {training.tokens / 1e9:.2f} G tokens, {run.tokens_per_s:,.0f} tokens/s",
    )


def glue_plan(config: PlanConfig, training: Training, glue: EvaluateGlueConfig, run: ScaledRun) -> StationPlan:
    """`evaluate_glue`, one fine-tuning on each worker of the distillation, with a model for each task kept."""
    machine = machine_named(config.cluster.machine, "cluster.machine")
    is_gpu = machine.device.is_gpu
    rate = flops_per_s(config, training, machine.device)
    found = fine_tunings(glue, training.student, flops_per_s=rate, is_gpu=is_gpu)
    parallel = max(1, min(run.workers, glue.scaling.max_parallel or run.workers) // glue.scaling.num_workers)
    price, hired = training_price(config, run)
    model_gb = training.parameters * _WEIGHT_BYTES / _GB
    count = sum(one.count for one in found)
    return StationPlan(
        "evaluate_glue",
        wall_seconds(found, parallel) / _HOUR,
        hired,
        machine.name,
        run.workers * (1 if is_gpu else training.config.scaling.cpus_per_worker),
        "GPU" if is_gpu else "core",
        price,
        count * model_gb,
        len(found) * model_gb,
        f"{count} fine-tunings of {len(found)} tasks",
    )


def export_plan(training: Training, examples: Examples, config: ExportModelConfig, hired: DataMachines) -> StationPlan:
    """`export_model`, in one process on one machine: every variant and the model itself read the text."""
    device, machine = DEVICES[CPU], hired.machine
    peak = device.peak("fp32")
    assert peak is not None
    tokens = round(config.max_examples * examples.mean_length)
    flops = training.student.forward_flops(
        tokens, round(tokens * examples.squared_length), round(tokens * examples.masked_share)
    )
    seconds = (1 + len(config.variants)) * flops / (peak * device.mfu["fp32"] * machine.cores)
    kept_gb = sum(_BYTES[variant] for variant in config.variants) * training.parameters / _GB
    return StationPlan(
        "export_model",
        (seconds + _EXPORT_S * len(config.variants)) / _HOUR,
        1,
        machine.name,
        machine.cores,
        "core",
        hired.price_per_machine_hour,
        kept_gb,
        kept_gb,
        ", ".join(config.variants),
    )


def training_price(config: PlanConfig, run: ScaledRun) -> tuple[float, int]:
    """Price of an hour and number of what a run hires: whole machines, or workers where the recipe gives their price.

    Raises:
        InputError: no price is known.
    """
    price = config.estimate.price_per_hour
    if price is not None:
        return price, run.workers
    return price_of(machine_named(config.cluster.machine, "cluster.machine"), config.cluster), run.machines
