"""The stage table: one row per stage of the pipeline.

Rows name classes and functions as `module:name` strings, which are imported on use. Therefore importing this module
does not import torch:

    STAGES["distill"].config_class             class of its recipe
    STAGES["distill"].job().complete(config)   runs the stage unless it is complete, and returns its `RunFolder`
    command("distill", __doc__)                `main(argv)` of its module in `jobs`
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from distilray.config.base import ConfigLocation, JobConfig
from distilray.config.recipe import validate_recipe
from distilray.config.sample import resolve_sample
from distilray.runtime import storage
from distilray.runtime.job import Job, run_command
from distilray.runtime.metrics import read_metrics
from distilray.runtime.run_folder import is_complete, read_manifest


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline. All attributes except `name` and `is_view` are import strings.

    Attributes:
        name: name of its job, `python -m jobs.NAME`.
        config: class of its recipe.
        plan, run, show, is_view: see `Job`.
        validate: function that checks an output file of the stage and returns a one-line description.
        recipes: function that returns the recipes that a run would write for later stages.
    """

    name: str
    config: str
    plan: str
    run: str
    show: str | None = None
    validate: str | None = None
    recipes: str | None = None
    is_view: bool = False

    @property
    def config_class(self) -> type[JobConfig]:
        config_class: type[JobConfig] = import_object(self.config)
        return config_class

    def job(self) -> Job[Any]:
        """Return the job of the stage, whose functions are imported when they are called."""
        return Job(
            name=self.name,
            config_class=self.config_class,
            plan=functools.partial(_call, self.plan),
            run=functools.partial(_call, self.run),
            show=functools.partial(_call, self.show) if self.show else None,
            pin=_pin_location,
            files=_input_files,
            is_view=self.is_view,
        )


_ROWS = (
    Stage(
        "choose_settings",
        config="distilray.config.own_text:ChooseSettingsConfig",
        plan="distilray.operations.own_text.choose_settings:plan_settings",
        run="distilray.operations.own_text.choose_settings:choose_settings",
        recipes="distilray.operations.own_text.choose_settings:generated_recipes",
    ),
    Stage(
        "build_corpus",
        config="distilray.config.corpus:BuildCorpusConfig",
        plan="distilray.corpus.pipeline:plan_corpus",
        run="distilray.corpus.pipeline:build_corpus",
    ),
    Stage(
        "train_tokenizer",
        config="distilray.config.pretraining_data:TrainTokenizerConfig",
        plan="distilray.pretraining_data.tokenizer_training:plan_tokenizer",
        run="distilray.pretraining_data.tokenizer_training:train_tokenizer",
    ),
    Stage(
        "encode_corpus",
        config="distilray.config.pretraining_data:EncodeCorpusConfig",
        plan="distilray.pretraining_data.encoding:plan_encoding",
        run="distilray.pretraining_data.encoding:encode_corpus",
    ),
    Stage(
        "train_teacher",
        config="distilray.config.distillation:TrainTeacherConfig",
        plan="distilray.distillation.dry_run:plan_teacher",
        run="distilray.distillation.distill:train_teacher",
    ),
    Stage(
        "cache_teacher",
        config="distilray.config.cache_teacher:CacheTeacherConfig",
        plan="distilray.distillation.cache_teacher:plan_cache",
        run="distilray.distillation.cache_teacher:cache_teacher",
    ),
    Stage(
        "distill",
        config="distilray.config.distillation:DistillConfig",
        plan="distilray.distillation.dry_run:plan_distillation",
        run="distilray.distillation.distill:distill",
    ),
    Stage(
        "write_glue_text",
        config="distilray.config.evaluation:WriteGlueTextConfig",
        plan="distilray.evaluation.glue_text:plan_glue_text",
        run="distilray.evaluation.glue_text:write_glue_text",
    ),
    Stage(
        "build_next_sentence_task",
        config="distilray.config.evaluation:BuildNextSentenceTaskConfig",
        plan="distilray.evaluation.next_sentence_task:plan_next_sentence_task",
        run="distilray.evaluation.next_sentence_task:build_next_sentence_task",
    ),
    Stage(
        "search_glue",
        config="distilray.config.glue:SearchGlueConfig",
        plan="tuning.plan:plan_search",
        run="tuning.search:search_glue",
        show="tuning.search:show_search",
    ),
    Stage(
        "evaluate_glue",
        config="distilray.config.glue:EvaluateGlueConfig",
        plan="distilray.evaluation.glue.evaluate_glue:plan_glue",
        run="distilray.evaluation.glue.evaluate_glue:evaluate_glue",
        show="distilray.evaluation.glue.evaluate_glue:show_glue_scores",
        validate="distilray.evaluation.glue.evaluate_glue:check_submission",
    ),
    Stage(
        "evaluate_fill_mask",
        config="distilray.config.evaluation:EvaluateFillMaskConfig",
        plan="distilray.evaluation.fill_mask.evaluate_fill_mask:plan_fill_mask",
        run="distilray.evaluation.fill_mask.evaluate_fill_mask:evaluate_fill_mask",
        show="distilray.evaluation.fill_mask.summary:show_fill_mask_scores",
    ),
    Stage(
        "evaluate_bias",
        config="distilray.config.evaluation:EvaluateBiasConfig",
        plan="distilray.evaluation.bias.evaluate_bias:plan_bias",
        run="distilray.evaluation.bias.evaluate_bias:evaluate_bias",
        show="distilray.evaluation.bias.evaluate_bias:show_bias_scores",
    ),
    Stage(
        "export_model",
        config="distilray.config.export:ExportModelConfig",
        plan="distilray.export.variants:plan_export",
        run="distilray.export.variants:export_model",
        show="distilray.export.table:show_export",
    ),
    Stage(
        "measure_efficiency",
        config="distilray.config.evaluation:MeasureEfficiencyConfig",
        plan="distilray.evaluation.efficiency:plan_efficiency",
        run="distilray.evaluation.efficiency:measure_efficiency",
        show="distilray.evaluation.efficiency:show_efficiency",
    ),
    Stage(
        "check_service",
        config="distilray.config.serving:CheckServiceConfig",
        plan="serve.local:plan_check_service",
        run="serve.local:check_service",
        show="serve.local:show_answers",
    ),
    Stage(
        "write_report",
        config="distilray.config.report:ReportConfig",
        plan="distilray.report.page:plan_report",
        run="distilray.report.page:write_report",
        show="distilray.report.page:show_report",
        is_view=True,
    ),
    Stage(
        "plan",
        config="distilray.config.plan:PlanConfig",
        plan="distilray.operations.plan.planning:plan_summary",
        run="distilray.operations.plan.planning:write_plan",
        show="distilray.operations.plan.planning:show_plan",
        is_view=True,
    ),
)
STAGES = {stage.name: stage for stage in _ROWS}

# Functions by kind of location. A pin function returns a location that means the same on every machine, or raises
# `InputError`. A files function returns the files to record in the manifest, by name.
_PIN = {
    "file": "distilray.runtime.file_search:check_exists",
    "model": "distilray.models.sources:pin",
    "tokenizer": "distilray.models.sources:pin_tokenizer",
    "causal_model": "distilray.evaluation.fill_mask.causal:check_causal_model",
}
_FILES = {
    "model": "distilray.models.sources:model_inputs",
    "tokenizer": "distilray.models.sources:tokenizer_inputs",
}
_GLUE_FILES = "distilray.finetuning.files:input_files"


@dataclass(frozen=True)
class Run:
    """A complete run of a stage, which can be passed to later stages."""

    run_dir: str

    @property
    def model_dir(self) -> str:
        """Folder of the model that the run wrote."""
        return storage.join(self.run_dir, "model")

    @property
    def scores(self) -> dict[str, Any]:
        """Content of `scores.json`; for a training run, the last scores on held-out examples."""
        file = storage.join(self.run_dir, "scores.json")
        if storage.exists(file):
            return dict(json.loads(storage.read_bytes(file)))
        return dict(read_metrics(storage.join(self.run_dir, "heldout.jsonl"))[-1])


def run_stage(name: str, /, **values: Any) -> Run:
    """Run a stage unless it is complete, and return its run.

    Args:
        values: values by recipe key, whose suffix `_dir` or `_path` may be omitted. A `Run` is replaced by its folder.

    Raises:
        InputError: a problem that the user can fix.
    """
    stage = STAGES[name]
    keys = stage.config_class.model_fields

    def recipe_key(name: str) -> str:
        return next((key for key in (name, f"{name}_dir", f"{name}_path") if key in keys), name)

    recipe = {recipe_key(argument): _to_recipe_value(value) for argument, value in values.items()}
    return Run(stage.job().complete(validate_recipe(name, recipe, stage.config_class)).uri)


def _to_recipe_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_recipe_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_recipe_value(entry) for entry in value]
    if isinstance(value, Run):
        return value.run_dir
    return str(value) if isinstance(value, Path) else value


def command(name: str, description: str | None) -> Callable[..., int]:
    """Return `main(argv)` of a job, which runs a stage from the command line and returns the exit code.

    Args:
        description: docstring of the job's module; `--help` shows its first line.
    """
    stage = STAGES[name]

    check = functools.partial(_call, stage.validate) if stage.validate else None

    def main(argv: Sequence[str] | None = None) -> int:
        return run_command(name, stage.job, lambda: stage.config_class, argv, description=description, validate=check)

    return main


@functools.cache
def import_object(import_string: str) -> Any:
    """Import and return the object that a `module:name` string refers to."""
    module, _, name = import_string.partition(":")
    return getattr(import_module(module), name)


def _call(import_string: str, *args: Any) -> Any:
    return import_object(import_string)(*args)


def _pin_location(location: ConfigLocation) -> str:
    if location.type.job is not None and is_complete(location.value):
        read_manifest(location.value, location.type.job)  # checks the job
    pin = _PIN.get(location.type.kind)
    return str(import_object(pin)(location.value)) if pin and location.is_input else location.value


def _input_files(name: str, location: ConfigLocation) -> dict[str, str]:
    kind = location.type.kind
    if kind == "glue":
        section: Any = location.section
        files = import_object(_GLUE_FILES)(location.value, section.tasks)
    elif kind in _FILES:
        files = import_object(_FILES[kind])(name, location.value)
    else:
        files = {name: resolve_sample(location.value)}
    return dict(files)
