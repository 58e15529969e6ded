"""Runs the stages of a pipeline in one Ray session, or prints what they would do as one table."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from distilray.config.base import RayConfig, locations
from distilray.config.pipeline import Pipeline, PipelineStage, load_pipeline
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.command_line import CommandParser
from distilray.runtime.environment import load_secrets
from distilray.runtime.job import Quantity
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import CONFIG_FILE, RunFolder, RunMismatchError, is_complete, read_manifest
from distilray.stages import STAGES

_COMPLETE = "complete"  # state of a stage
# Keys of a recipe that bound its work, with the unit, for stages whose inputs do not exist yet.
_BOUNDS = {"max_steps": "steps", "max_examples": "examples", "num_trials": "trials", "max_texts": "texts"}


def run_pipeline_command(argv: Sequence[str] | None, about: str | None, *, recipes: Path) -> None:
    """Run the command line of `jobs.run_pipeline`; see `read_command`.

    Raises:
        InputError: anything that the user can mend.
    """
    load_secrets(os.environ)
    pipeline, is_dry_run = read_command(argv, about, recipes=recipes)
    if is_dry_run:
        Console(width=None if os.isatty(1) else 140).print(plan_table(pipeline))
    else:
        run_pipeline(pipeline)


def read_command(
    argv: Sequence[str] | None, about: str | None, *, recipes: Path, keep_tilde: bool = False
) -> tuple[Pipeline, bool]:
    """Return the stages that a command line chooses, and whether it is a dry run.

    Args:
        about: docstring whose first line `--help` shows.
        recipes: folder of the recipes that are not beside the pipeline.
        keep_tilde: leaves `~` in paths, which another machine will expand.

    Raises:
        InputError: a pipeline or an argument that cannot be used.
    """
    parser = CommandParser(
        prog="python -m jobs.run_pipeline",
        description=about,
        epilog="exit code: 0 done, 1 internal fault, 2 bad input, 130 interrupted (run it again to resume)",
    )
    parser.add_argument("file", metavar="FILE", help="pipeline; jobs/pipelines/ has some")
    parser.add_argument("arguments", nargs="*", metavar="NAME=value", help="variables, and STAGE.a.b=value for recipes")
    parser.add_argument("--only", metavar="STAGE,...", help="these alone, or patterns of them: 'distill-*'")
    parser.add_argument("--skip", metavar="STAGE,...", help="all but these")
    parser.add_argument("--dry-run", action="store_true", help="validate, print the plan, start nothing")
    args = parser.parse_intermixed_args(argv)
    pipeline = load_pipeline(args.file, args.arguments, STAGES, recipes=recipes, keep_tilde=keep_tilde)
    return pipeline.chosen(args.only, args.skip), args.dry_run


def run_pipeline(pipeline: Pipeline) -> None:
    """Run the stages that are not complete, one after another, then print the results.

    A run in a local folder whose config or inputs have changed is renamed, and the stage is run again.

    Raises:
        InputError: anything that the user can mend.
    """
    results: list[tuple[Callable[[Any], None], RunFolder]] = []
    with contextlib.ExitStack() as session:
        for stage in pipeline.stages:
            job = STAGES[stage.stage].job()
            with _named(stage):
                folder = job.complete(stage.config(), sets_aside=True, before_run=lambda: _open_session(session))
            if job.show is not None and stage.name in pipeline.show:
                results.append((job.show, folder))
    for show, folder in results:
        show(folder)


def _open_session(session: contextlib.ExitStack) -> None:
    from distilray.runtime.session import ray_session  # loads Ray

    session.enter_context(ray_session(RayConfig()))


@dataclass(frozen=True)
class _Row:
    """A stage in the table of a dry run; None stands for what is unknown.

    Attributes:
        size: bytes that it writes, or has written.
        seconds: that it takes, or has taken.
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
        return self.state, self.work, _bytes(self.size) if self.size is not None else "", time


def plan_table(pipeline: Pipeline) -> Table:
    """Return a row for each stage and one for all. Starts and writes nothing.

    Raises:
        InputError: an input that no stage of the pipeline will write is missing, or cannot be used.
    """
    rows: list[_Row] = []
    shown = Table("stage", "state", "work", title="plan, nothing started")
    pending: list[str] = []  # run folders that will be written
    for heading in ("size", "time"):
        shown.add_column(heading, justify="right")
    for stage in pipeline.stages:
        with _named(stage):
            rows.append(row := _row(stage, pending))
        shown.add_row(stage.name, *row.cells())
        if not row.is_complete:
            pending.append(stage.run_dir)
    shown.add_section()
    state = f"{len(rows) - len(pending)} complete, {len(pending)} to run"
    size = _total([row.size for row in rows], _bytes)
    shown.add_row("all", state, "", size, _total([row.seconds for row in rows if not row.is_complete], format_duration))
    return shown


def _row(stage: PipelineStage, pending: Sequence[str]) -> _Row:
    if stage.recipe_is_generated and _is_below(str(stage.recipe), pending):
        return _lexical_row(stage)
    config = stage.config()
    if any(_is_below(each.value, pending) for each in locations(config)):
        return _lexical_row(stage)
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
    numbers = {each.unit: each.number for each in job.plan(pinned).values() if isinstance(each, Quantity)}
    size, seconds = numbers.pop("bytes", None), numbers.pop("s", _last_seconds(stage))
    return _Row(state, ", ".join(f"{number:,.0f} {unit}" for unit, number in numbers.items()), size, seconds)


def _lexical_row(stage: PipelineStage) -> _Row:
    """Return what is known of a stage whose inputs are still to be written."""
    values = stage.known_values()
    work = ", ".join(f"{values[key]:,} {unit}" for key, unit in _BOUNDS.items() if isinstance(values.get(key), int))
    seconds = _last_seconds(stage)
    return _Row("to run" if seconds is None else "to run again if its inputs change", work, seconds=seconds)


def _last_seconds(stage: PipelineStage) -> float | None:
    """Return the time that the complete run in its folder has taken."""
    return float(read_manifest(stage.run_dir)["run"]["wall_s"]) if is_complete(stage.run_dir) else None


def _is_below(location: str, folders: Sequence[str]) -> bool:
    return any(f"{location.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _total(numbers: Sequence[float | None], text: Callable[[float], str]) -> str:
    """Return the sum of what is known."""
    known = [number for number in numbers if number is not None]
    return text(sum(known)) if len(known) == len(numbers) else f"at least {text(sum(known))}" if known else "unknown"


def _bytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


@contextlib.contextmanager
def _named(stage: PipelineStage) -> Iterator[None]:
    """Put the name of the stage in front of its errors."""
    try:
        yield
    except InputError as error:
        message = str(error)
        raise error if message.startswith(stage.source) else InputError(f"stage {stage.name}: {message}") from None
