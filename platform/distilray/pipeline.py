"""Run all stages of a pipeline in one Ray session, or print their plan as a table."""

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from distilray.config.base import RayConfig, locations
from distilray.config.pipeline import Pipeline, PipelineStage, Values, load_pipeline
from distilray.config.recipe import merge_values
from distilray.console import format_entries, json_on_stdout, print_tables
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.command_line import EXIT_CODES, CommandParser, add_output_options
from distilray.runtime.environment import load_secrets
from distilray.runtime.job import Quantity, print_links, results_to_open, run_record
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
    pipeline, args = read_command(argv, description, recipes=recipes)
    with json_on_stdout(enabled=args.json) as write_json:
        write_json(dry_run(pipeline) if args.dry_run else run_pipeline(pipeline))


def read_command(
    argv: Sequence[str] | None, description: str | None, *, recipes: Path, keep_tilde: bool = False
) -> tuple[Pipeline, argparse.Namespace]:
    """Parse a command line; return the selected stages and all arguments.

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
    add_output_options(parser)
    args = parser.parse_intermixed_args(argv)
    pipeline = load_pipeline(args.file, args.arguments, STAGES, recipes=recipes, keep_tilde=keep_tilde)
    return pipeline.select(args.only, args.skip), args


def run_pipeline(pipeline: Pipeline) -> dict[str, object]:
    """Run the incomplete stages in order, print the results and what to open, and return the runs as JSON values.

    If the config or the inputs of a run in a local folder have changed, its folder is renamed and the stage runs again.

    Raises:
        InputError: a problem that the user can fix.
    """
    started, folders = time.monotonic(), dict[str, RunFolder]()
    with contextlib.ExitStack() as session:
        for stage in pipeline.stages:
            job = STAGES[stage.stage].job()
            with _stage_errors(stage):
                folders[stage.name] = job.complete(
                    stage.config(), archive_changed=True, before_run=lambda: _open_session(session)
                )
    for stage in pipeline.stages:
        show = STAGES[stage.stage].job().show
        if show is not None and stage.name in pipeline.show:
            show(folders[stage.name])
    print(f"run_pipeline: {len(folders)} stages complete in {format_duration(time.monotonic() - started)}")
    links = results_to_open(list(folders.values()))
    print_links(links)
    return {"stages": [{"stage": name, **run_record(folder)} for name, folder in folders.items()], "open": links}


def dry_run(pipeline: Pipeline) -> dict[str, object]:
    """Print the plan, and return it as JSON values.

    Raises:
        InputError: an input that no stage of the pipeline writes is missing or cannot be used.
    """
    rows, settings = plan_rows(pipeline), chosen_settings(pipeline)
    print_tables(plan_table(rows))
    if settings:
        print(format_entries(settings, label_width=max(map(len, settings))), flush=True)
    stages = [
        {"stage": stage.name, "job": stage.stage, "run_dir": stage.run_dir, **asdict(rows[stage.name])}
        for stage in pipeline.stages
    ]
    return {"stages": stages, "settings": {key: str(value) for key, value in settings.items()}}


def _open_session(session: contextlib.ExitStack) -> None:
    from distilray.runtime.session import ray_session  # imports Ray

    session.enter_context(ray_session(RayConfig()))


@dataclass(frozen=True)
class PlanRow:
    """A stage in the plan. Unknown values are None.

    Attributes:
        bytes: size of the output, expected or actual.
        seconds: duration, expected or actual.
    """

    state: str
    work: str
    bytes: float | None = None
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
        return self.state, self.work, _format_bytes(self.bytes) if self.bytes is not None else "", time


def plan_rows(pipeline: Pipeline) -> dict[str, PlanRow]:
    """Return the plan of each stage by its name, without starting or writing anything.

    Raises:
        InputError: an input that no stage of the pipeline writes is missing or cannot be used.
    """
    rows: dict[str, PlanRow] = {}
    pending: list[str] = []  # run folders that are still to be written
    generated: dict[str, tuple[Values, float | None]] = {}  # recipes of pending stages, and expected seconds, by path
    for stage in pipeline.stages:
        values, seconds = generated.get(str(stage.recipe), (None, None))
        with _stage_errors(stage):
            planned = stage if values is None else _with_recipe(stage, values)
            row = _row(planned, pending, seconds)
            if not row.is_complete:
                generated |= _generated_recipes(planned)
        rows[stage.name] = row
        if not row.is_complete:
            pending.append(stage.run_dir)
    return rows


def plan_table(rows: Mapping[str, PlanRow]) -> Table:
    """Return a table with a row per stage and a total."""
    table = Table("stage", "state", "work", title="plan, nothing started")
    for heading in ("size", "time"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, *row.cells())
    table.add_section()
    pending = [row for row in rows.values() if not row.is_complete]
    state = f"{len(rows) - len(pending)} complete, {len(pending)} to run"
    size = _total([row.bytes for row in rows.values()], _format_bytes)
    table.add_row("all", state, "", size, _total([row.seconds for row in pending], format_duration))
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


def _row(stage: PipelineStage, pending: Sequence[str], expected_s: float | None = None) -> PlanRow:
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
        return PlanRow(_COMPLETE, work, size, manifest["run"]["wall_s"])
    numbers = {item.unit: item.number for item in job.plan(pinned).values() if isinstance(item, Quantity)}
    size, seconds = numbers.pop("bytes", None), numbers.pop("s", _last_seconds(stage) or expected_s)
    return PlanRow(state, ", ".join(f"{number:,.0f} {unit}" for unit, number in numbers.items()), size, seconds)


def _row_without_inputs(stage: PipelineStage, expected_s: float | None) -> PlanRow:
    """Return the row of a stage whose inputs do not exist yet."""
    values = stage.known_values()
    work = ", ".join(f"{values[key]:,} {unit}" for key, unit in _BOUNDS.items() if isinstance(values.get(key), int))
    seconds = _last_seconds(stage)
    state = "to run" if seconds is None else "to run again if its inputs change"
    return PlanRow(state, work, seconds=expected_s if seconds is None else seconds)


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
