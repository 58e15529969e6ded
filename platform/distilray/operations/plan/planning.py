"""Plan a pipeline: time, cost and disk space of each stage, and the scaling of the distillation."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from distilray.config.base import Config, Precision
from distilray.config.distillation import DistillConfig
from distilray.config.export import ExportModelConfig
from distilray.config.glue import EvaluateGlueConfig
from distilray.config.plan import PlanConfig, StageRecipeConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.config.recipe import load_recipe
from distilray.console import print_tables
from distilray.operations.plan.assumptions import (
    PUBLISHED_HOURS,
    PUBLISHED_RUN,
    list_assumptions,
    list_warnings,
    predict_published_run,
)
from distilray.operations.plan.plan_page import plan_page, plan_tables
from distilray.operations.plan.simulation import ScaledRun, training_runs
from distilray.operations.plan.stage_plans import (
    StagePlan,
    corpus_plan,
    data_machines,
    distillation_plan,
    encoding_plan,
    export_plan,
    glue_plan,
    training_machines,
)
from distilray.operations.plan.workload import ExampleEstimate, TrainingEstimate, estimate_examples, estimate_training
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import RunFolder

PLAN_FILE, PAGE_FILE = "plan.json", "plan.html"
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")  # supported by the trainer of the published run
S = TypeVar("S", bound=Config)


@dataclass(frozen=True)
class PipelinePlan:
    """Plan of a pipeline.

    Attributes:
        run: simulation with the number of workers in the distill recipe.
        runs: simulations with the numbers of workers in the plan recipe.
    """

    config: PlanConfig
    examples: ExampleEstimate
    training: TrainingEstimate
    stages: list[StagePlan]
    run: ScaledRun
    runs: list[ScaledRun]


def pipeline_plan(config: PlanConfig) -> PipelinePlan:
    """Plan the stages of the recipe.

    Raises:
        InputError: a recipe, a machine or the measured run is invalid.
    """
    recipes, data = config.stages, data_machines(config)
    encoding = _recipe(recipes.encode_corpus, EncodeCorpusConfig)
    examples = estimate_examples(config.text, encoding)
    training = estimate_training(examples, _recipe(recipes.distill, DistillConfig), config.teacher)
    simulated, num_workers = config.simulation.workers, training.config.scaling.num_workers
    by_workers = {run.workers: run for run in training_runs(config, training, sorted({*simulated, num_workers}))}
    run = by_workers[num_workers]
    machines = training_machines(config, training, run)
    stages = [corpus_plan(config.text, data)] if recipes.build_corpus else []
    stages += [encoding_plan(examples, encoding, data), distillation_plan(training, run, machines)]
    if recipes.evaluate_glue is not None:
        glue = _recipe(recipes.evaluate_glue, EvaluateGlueConfig)
        stages.append(glue_plan(config, training, glue, run, machines))
    if recipes.export_model is not None:
        stages.append(export_plan(training, examples, _recipe(recipes.export_model, ExportModelConfig), data))
    return PipelinePlan(
        config, examples, training, stages, run, [by_workers[count] for count in sorted(set(simulated))]
    )


def plan_summary(config: PlanConfig) -> dict[str, object]:
    """Return a summary for `--dry-run`."""
    plan = pipeline_plan(config)
    lines: dict[str, object] = {
        stage.stage: f"about {format_duration(stage.hours * 3600)} on {stage.machines} x {stage.machine}, "
        f"{stage.device_hours:,.1f} {stage.device}-hours, ${stage.cost:,.2f}, {stage.kept_gb:,.1f} GB kept"
        for stage in plan.stages
    }
    total = _total(plan)
    lines["total"] = f"${total['cost']:,.2f}, {total['kept_gb']:,.1f} GB kept"
    for number, warning in enumerate(list_warnings(config, plan.training), 1):
        lines[f"warning {number}"] = warning
    return lines


def write_plan(config: PlanConfig, folder: RunFolder) -> Outcome:
    """Write `plan.json` and `plan.html`."""
    plan = pipeline_plan(config)
    values = _values(plan)
    total = values["total"]
    storage.write_bytes(folder.path(PLAN_FILE), json.dumps(values, indent=1).encode())
    storage.write_bytes(folder.path(PAGE_FILE), plan_page(values).encode())
    return Outcome(
        f"{len(plan.stages)} stages, {format_duration(total['hours'] * 3600)} in sequence, "
        f"${total['cost']:,.2f}, {total['kept_gb']:,.1f} GB kept",
        {"total": total, "workers": plan.run.workers, "steps": plan.training.steps},
        {name: {} for name in (PLAN_FILE, PAGE_FILE)},
    )


def show_plan(folder: RunFolder) -> None:
    """Print the tables of `plan.json`, its warnings and its assumptions."""
    values = json.loads(storage.read_bytes(folder.path(PLAN_FILE)))
    print_tables(*plan_tables(values))
    lines = [
        *(f"warning: {warning}" for warning in values["warnings"]),
        *(f"- {line}" for line in values["assumptions"]),
    ]
    print("\n".join(lines))


def _recipe(stage: StageRecipeConfig, config_class: type[S]) -> S:
    return load_recipe(stage.path, stage.overrides, config_class)


def _total(plan: PipelinePlan) -> dict[str, float]:
    names = ("hours", "cost", "written_gb", "kept_gb")
    return {name: sum(getattr(stage, name) for stage in plan.stages) for name in names}


def _values(plan: PipelinePlan) -> dict[str, Any]:
    """Return the content of `plan.json`."""
    config, training = plan.config, plan.training
    return {
        "stages": [_stage_values(stage) for stage in plan.stages],
        "total": _total(plan),
        "training": {
            "machine": config.cluster.machine,
            "workers": plan.run.workers,
            "steps": training.steps,
            "tokens": round(training.tokens),
            "flops": training.flops_per_step * training.steps,
            "parameters": training.parameters,
            "worker_gb": training.worker_gb,
        },
        "scaling": [_run_values(plan, run) for run in plan.runs],
        "reference": [
            {**dataclasses.asdict(run), "name": PUBLISHED_RUN, "published_hours": PUBLISHED_HOURS, "ratio": run.ratio}
            for run in map(predict_published_run, _PRECISIONS)
        ],
        "warnings": list_warnings(config, training),
        "assumptions": list_assumptions(config, training),
    }


def _stage_values(stage: StagePlan) -> dict[str, Any]:
    derived = {name: getattr(stage, name) for name in ("machine_hours", "device_hours", "cost")}
    return {**dataclasses.asdict(stage), **derived}


def _run_values(plan: PipelinePlan, run: ScaledRun) -> Mapping[str, Any]:
    machines = training_machines(plan.config, plan.training, run)
    cost = run.hours * machines.count * machines.price_per_machine_hour
    derived = {"step_s": run.step_s, "bound": run.bound, "cost": cost, "worker_hours": run.hours * run.workers}
    return {**dataclasses.asdict(run), **derived}
