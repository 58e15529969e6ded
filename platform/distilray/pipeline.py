"""Run all stages of a pipeline in one Ray session, or print their plan as a table."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from distilray.config.base import RayConfig, locations
from distilray.config.pipeline import Pipeline, PipelineStage, Values, load_pipeline
from distilray.config.recipe import merge_values
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.command_line import EXIT_CODES, CommandParser
from distilray.runtime.environment import load_secrets
from distilray.runtime.job import Quantity
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import CONFIG_FILE, RunFolder, RunMismatchError, is_complete, read_manifest
from distilray.stages import STAGES, import_object

_COMPLETE = "complete"  # state of a stage in the plan
# Recipe keys that bound the work of a stage, with their units, for stages whose inputs do not exist yet.
_BOUNDS = {"max_steps": "steps", "max_examples": "examples", "num_trials": "trials", "max_texts": "texts"}


def run_pipeline_command(argv: Sequence[str] | None, description: str | None, *, recipes: Path) -> None:
    """Run `jobs.run_pipeline` from the command line.

    Args:
        description: docstring of the job's module; `--help` shows its first line.
        recipes: folder of the recipes that are not next to the pipeline file.

    Raises:
        InputError: a problem that the user can fix.
    """
    load_secrets(os.environ)
    pipeline, is_dry_run = read_command(argv, description, recipes=recipes)
    if is_dry_run:
        console = Console(width=None if os.isatty(1) else 140)
        console.print(plan_table(pipeline))
        for key, value in chosen_settings(pipeline).items():
            console.print(f"{key:<34} {value}", markup=False, highlight=False, soft_wrap=True)
    else:
        run_pipeline(pipeline)


def read_command(
    argv: Sequence[str] | None, description: str | None, *, recipes: Path, keep_tilde: bool = False
) -> tuple[Pipeline, bool]:
    """Parse a command line; return the selected stages and whether it is a dry run.

    Args:
        description: docstring of the job's module; `--help` shows its first line.
        recipes: folder of the recipes that are not next to the pipeline file.
        keep_tilde: keep `~` in paths, for another machine to expand.

    Raises:
        InputError: the pipeline or an argument cannot be used.
    """
    parser = CommandParser(prog="python -m jobs.run_pipeline", description=description, epilog=EXIT_CODES)
    parser.add_argument("file", metavar="FILE", help="pipeline file; see jobs/pipelines/")
    parser.add_argument(
        "arguments", nargs="*", metavar="NAME=value", help="values of variables, and STAGE.a.b=value for recipes"
    )
    parser.add_argument(
        "--only", metavar="STAGE,...", help="run only these stages; glob patterns are allowed: 'distill-*'"
    )
    parser.add_argument("--skip", metavar="STAGE,...", help="skip these stages")
    parser.add_argument("--dry-run", action="store_true", help="validate and print the plan without running")
    args = parser.parse_intermixed_args(argv)
    pipeline = load_pipeline(args.file, args.arguments, STAGES, recipes=recipes, keep_tilde=keep_tilde)
    return pipeline.select(args.only, args.skip), args.dry_run


def run_pipeline(pipeline: Pipeline) -> None:
    """Run the incomplete stages in order, then print the results.

    If the config or the inputs of a run in a local folder have changed, its folder is renamed and the stage runs again.

    Raises:
        InputError: a problem that the user can fix.
    """
    results: list[tuple[Callable[[Any], None], RunFolder]] = []
    with contextlib.ExitStack() as session:
        for stage in pipeline.stages:
            job = STAGES[stage.stage].job()
            with _stage_errors(stage):
                folder = job.complete(stage.config(), archive_changed=True, before_run=lambda: _open_session(session))
            if job.show is not None and stage.name in pipeline.show:
                results.append((job.show, folder))
    for show, folder in results:
        show(folder)


def _open_session(session: contextlib.ExitStack) -> None:
    from distilray.runtime.session import ray_session  # imports Ray

    session.enter_context(ray_session(RayConfig()))


@dataclass(frozen=True)
class _Row:
    """A row of the plan. Unknown values are None.

    Attributes:
        size: bytes of output, expected or actual.
        seconds: duration, expected or actual.
    """

    state: str
    work: str
    size: float | None = None
    seconds: float | None = None

    @property
    def is_complete(self) -> bool:
        return self.state == _COMPLETE

    def cells(self) -> tuple[str, str, str, str]:
        time = (
            f"{'took' if self.is_complete else 'about'} {format_duration(self.seconds)}"
            if self.seconds is not None
            else ""
        )
        return self.state, self.work, _format_bytes(self.size) if self.size is not None else "", time


def plan_table(pipeline: Pipeline) -> Table:
    """Return the plan with a row per stage and a total, without starting or writing anything.

    Raises:
        InputError: an input that no stage of the pipeline writes is missing or cannot be used.
    """
    rows: list[_Row] = []
    table = Table("stage", "state", "work", title="plan, nothing started")
    pending: list[str] = []  # run folders that are still to be written
    generated: dict[str, tuple[Values, float | None]] = {}  # recipes of pending stages, and expected seconds, by path
    for heading in ("size", "time"):
        table.add_column(heading, justify="right")
    for stage in pipeline.stages:
        values, seconds = generated.get(str(stage.recipe), (None, None))
        with _stage_errors(stage):
            planned = stage if values is None else _with_recipe(stage, values)
            row = _row(planned, pending, seconds)
            if not row.is_complete:
                generated |= _generated_recipes(planned)
        rows.append(row)
        table.add_row(stage.name, *row.cells())
        if not row.is_complete:
            pending.append(stage.run_dir)
    table.add_section()
    state = f"{len(rows) - len(pending)} complete, {len(pending)} to run"
    size = _total([row.size for row in rows], _format_bytes)
    table.add_row("all", state, "", size, _total([row.seconds for row in rows if not row.is_complete], format_duration))
    return table


def _with_recipe(stage: PipelineStage, values: Values) -> PipelineStage:
    """Return a stage with the values of a recipe that an earlier stage will write."""
    return replace(stage, recipe=None, recipe_is_generated=False, values=merge_values(values, stage.values))


def chosen_settings(pipeline: Pipeline) -> dict[str, object]:
    """Return the plans of the stages that write recipes: what they choose, and why."""
    chosen: dict[str, object] = {}
    for stage in pipeline.stages:
        if STAGES[stage.stage].recipes is not None:
            with _stage_errors(stage):
                chosen |= STAGES[stage.stage].job().plan(stage.config())
    return chosen


def _generated_recipes(stage: PipelineStage) -> dict[str, tuple[Values, float | None]]:
    """Return the recipes that a stage writes for later stages, with the expected seconds of these, by path."""
    row = STAGES[stage.stage]
    if row.recipes is None:
        return {}
    recipes = import_object(row.recipes)(stage.config())
    return {storage.join(stage.run_dir, name): entry for name, entry in recipes.items()}


def _row(stage: PipelineStage, pending: Sequence[str], expected_s: float | None = None) -> _Row:
    if stage.recipe_is_generated and _is_below(str(stage.recipe), pending):
        return _row_without_inputs(stage, expected_s)
    config = stage.config()
    if any(_is_below(location.value, pending) for location in locations(config)):
        return _row_without_inputs(stage, expected_s)
    job = STAGES[stage.stage].job()
    pinned, folder = job.prepare(config)
    state = "to resume" if storage.exists(folder.path(CONFIG_FILE)) else "to run"
    try:
        manifest = folder.complete_manifest()
    except RunMismatchError as error:
        manifest, state = None, f"to run again: {error.differing} changed"
    if manifest is not None:
        size = sum(entry.get("bytes", 0) for entry in manifest["content"]["outputs"].values())
        work = manifest["run"]["summary"].partition(", ")[0].partition(" (")[0]
        return _Row(_COMPLETE, work, size, manifest["run"]["wall_s"])
    numbers = {item.unit: item.number for item in job.plan(pinned).values() if isinstance(item, Quantity)}
    size, seconds = numbers.pop("bytes", None), numbers.pop("s", _last_seconds(stage) or expected_s)
    return _Row(state, ", ".join(f"{number:,.0f} {unit}" for unit, number in numbers.items()), size, seconds)


def _row_without_inputs(stage: PipelineStage, expected_s: float | None) -> _Row:
    """Return the row of a stage whose inputs do not exist yet."""
    values = stage.known_values()
    work = ", ".join(f"{values[key]:,} {unit}" for key, unit in _BOUNDS.items() if isinstance(values.get(key), int))
    seconds = _last_seconds(stage)
    state = "to run" if seconds is None else "to run again if its inputs change"
    return _Row(state, work, seconds=expected_s if seconds is None else seconds)


def _last_seconds(stage: PipelineStage) -> float | None:
    """Return the duration of the complete run in the stage's folder, if there is one."""
    return float(read_manifest(stage.run_dir)["run"]["wall_s"]) if is_complete(stage.run_dir) else None


def _is_below(location: str, folders: Sequence[str]) -> bool:
    return any(f"{location.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _total(numbers: Sequence[float | None], format_number: Callable[[float], str]) -> str:
    known = [number for number in numbers if number is not None]
    if not known:
        return "unknown"
    total = format_number(sum(known))
    return total if len(known) == len(numbers) else f"at least {total}"


def _format_bytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


@contextlib.contextmanager
def _stage_errors(stage: PipelineStage) -> Iterator[None]:
    """Prefix the messages of input errors in the block with the name of the stage."""
    try:
        yield
    except InputError as error:
        message = str(error)
        raise error if message.startswith(stage.source) else InputError(f"stage {stage.name}: {message}") from None
