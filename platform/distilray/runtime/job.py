"""Jobs: the command line, the plan and the recorded run of a stage."""

import argparse
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from distilray.config.base import ConfigLocation, JobConfig, RayConfig, input_locations, map_locations
from distilray.config.paths import expand_home
from distilray.config.recipe import load_recipe
from distilray.config.recipe_keys import format_keys
from distilray.config.sample import resolve_sample
from distilray.console import format_entries, json_on_stdout
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.command_line import EXIT_CODES, CommandParser, add_output_options, run_cli
from distilray.runtime.environment import load_secrets
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    RunFolder,
    RunMismatchError,
    is_complete,
    read_manifest,
)

C = TypeVar("C", bound=JobConfig)

# Files and folders of a run to open, by label: the first path that exists in the run.
_TO_OPEN: Mapping[str, Sequence[str]] = {
    "report": ("report.html",),
    "model_card": ("README.md",),
    "plan": ("plan.html",),
    "plot": ("search.svg",),
    "recipe": ("best.yaml",),
    "model": ("model", "onnx-int8", "onnx"),
}
_SERVE = "python -m jobs.serve_fill_mask app.model_dir={}"


@dataclass(frozen=True)
class Outcome:
    """Result of a job: a user-facing summary line, and the counts and outputs for the manifest."""

    summary: str
    counts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


class Quantity(str):
    """Text in the plan of a job with the number that it displays, from which the plan of a pipeline is computed.

    Attributes:
        unit: `s`, `bytes`, or the unit of the work: steps, examples, texts.
    """

    number: float
    unit: str

    def __new__(cls, text: str, number: float, unit: str) -> Self:
        quantity = super().__new__(cls, text)
        quantity.number, quantity.unit = number, unit
        return quantity


def estimated_wall_time(seconds: float, ray: RayConfig, note: str) -> Quantity:
    """Return a `Quantity` that displays the time on one core and whose number is the wall time on all cores.

    Args:
        seconds: time on one core.
        note: text after the time.
    """
    return Quantity(f"about {format_duration(seconds)} {note}", seconds / (ray.num_cpus or os.cpu_count() or 1), "s")


@dataclass(frozen=True)
class Job(Generic[C]):
    """A runnable stage.

    Attributes:
        name: NAME of `python -m jobs.NAME`.
        config_class: class of its recipe.
        plan: validates the inputs and describes the run without starting anything.
        run: does the work inside the run folder.
        show: prints the result of a complete run, in addition to its summary line.
        pin: returns a location that means the same on every machine (a hub model with its commit) or raises
            `InputError`.
        files: returns the files to record in the manifest for an input, by name.
        is_view: the result only presents its inputs, so it is overwritten when they change.
    """

    name: str
    config_class: type[C]
    plan: Callable[[C], Mapping[str, object]]
    run: Callable[[C, RunFolder], Outcome]
    show: Callable[[RunFolder], None] | None = None
    pin: Callable[[ConfigLocation], str] = lambda location: location.value
    files: Callable[[str, ConfigLocation], Mapping[str, str]] = lambda name, location: {
        name: resolve_sample(location.value)
    }
    is_view: bool = False

    def dry_run(self, recipe: C) -> dict[str, object]:
        """Validate the inputs, print the plan, and return it as JSON values.

        Raises:
            InputError: a problem that the user can fix.
        """
        plan = self.plan(self._pinned(recipe))
        print(f"{self.name}: plan, nothing started\n{format_entries(plan)}", flush=True)
        expected = {value.unit: value.number for value in plan.values() if isinstance(value, Quantity)}
        return {"job": self.name, "plan": {key: str(value) for key, value in plan.items()}, "expected": expected}

    def complete(
        self, recipe: C, *, archive_changed: bool = False, before_run: Callable[[], object] = lambda: None
    ) -> RunFolder:
        """Run the job unless it is complete, print its summary line and return the complete run.

        Args:
            archive_changed: if the config or inputs of an earlier run in a local folder differ, rename that folder and
                run the job instead of raising an error.
            before_run: called before the job runs, but not if the run is already complete.

        Raises:
            InputError: a problem that the user can fix.
        """
        started = time.monotonic()
        config, folder = self.prepare(recipe)
        mismatch: RunMismatchError | None = None
        try:
            manifest = folder.complete_manifest()
        except RunMismatchError as error:
            is_outdated_view = self.is_view and is_complete(folder.uri)
            if not is_outdated_view and not (archive_changed and storage.is_local(folder.uri)):
                raise
            manifest, mismatch = None, error
        if manifest is not None:
            run = manifest["run"]
            summary = f"{self.name}: {run['summary']} (complete since {run['finished']}, skipped)"
        else:
            self.plan(config)  # validate the new inputs before the earlier run is removed
            if mismatch is not None:
                self._make_room(folder, mismatch)
            before_run()
            with folder.owned():
                folder.begin()
                outcome = self.run(config, folder)
                folder.finish(outcome.counts, outcome.outputs, outcome.summary)
            summary = f"{self.name}: {outcome.summary} in {format_duration(time.monotonic() - started)}"
        print(f"{summary} -> {recipe.run_dir}", flush=True)
        return folder

    def prepare(self, recipe: C) -> tuple[C, RunFolder]:
        """Return the config with pinned, absolute locations, and the run folder with its inputs.

        Raises:
            InputError: a location cannot be used.
        """
        config = map_locations(self._pinned(recipe), absolute_location)
        return config, RunFolder(self.name, config, self.inputs(config))

    def inputs(self, config: C) -> dict[str, str]:
        """Return the files and folders that a run reads, by their names in its manifest."""
        inputs = input_locations(config, lambda location: not location.type.is_optional or is_complete(location.value))
        return {key: uri for name, location in inputs.items() for key, uri in self.files(name, location).items()}

    def _pinned(self, config: C) -> C:
        """Return the config with pinned locations. One error names all locations that cannot be used."""
        errors: list[InputError] = []

        def pin(location: ConfigLocation) -> str:
            try:
                return self.pin(location)
            except InputError as error:
                errors.append(error)
                return location.value

        pinned = map_locations(config, pin)
        if errors:
            raise errors[0] if len(errors) == 1 else InputError("; ".join(map(str, errors)))
        return pinned

    def _make_room(self, folder: RunFolder, mismatch: RunMismatchError) -> None:
        """Remove an outdated view, or rename the folder of an earlier run."""
        if self.is_view and is_complete(folder.uri):
            for name in (MANIFEST_FILE, CONFIG_FILE):
                storage.remove_file(folder.path(name))
        else:
            print(f"{self.name}: {mismatch.differing} changed; the earlier run is now {folder.archive()}", flush=True)


def run_command(
    name: str,
    load: Callable[[], Job[Any]],
    load_config: Callable[[], type[JobConfig]],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    validate: Callable[[str], str] | None = None,
) -> int:
    """Run a job from the command line and return the exit code.

    Args:
        load: imports and returns the job; called only once the command line has been parsed.
        load_config: imports and returns the class of its recipe, whose keys `--help` lists.
        description: docstring of the job's module; `--help` shows its first line.
        validate: checks an output file of the job and returns a one-line description.
    """

    def main() -> None:
        load_secrets(os.environ)
        args = _parser(name, load_config, description, has_validate=validate is not None).parse_intermixed_args(argv)
        if validate is not None and args.validate is not None:
            print(validate(expand_home(args.validate)), flush=True)
            return
        if args.recipe is None:
            raise InputError(f"the following arguments are required: --recipe; see python -m jobs.{name} --help")
        recipe = load_recipe(args.recipe, args.overrides, load_config())
        job = load()
        with json_on_stdout(enabled=args.json) as write_json:
            if args.dry_run:
                write_json(job.dry_run(recipe))
                return
            folder = job.complete(recipe)
            if job.show is not None:
                job.show(folder)
            links = results_to_open([folder])
            print_links(links)
            write_json({**run_record(folder), "open": links})

    return run_cli(name, main)


def _parser(
    name: str, load_config: Callable[[], type[JobConfig]], description: str | None, *, has_validate: bool
) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m jobs.{name}",
        description=description,
        epilog=EXIT_CODES,
        details=lambda: format_keys(load_config()),
    )
    parser.add_argument("--recipe", help=f"YAML file; see jobs/recipes/{name}/")
    add_output_options(parser)
    if has_validate:
        parser.add_argument("--validate", metavar="FILE", help="check an output file of this job without running")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="overrides of the recipe")
    return parser


def run_record(folder: RunFolder) -> dict[str, object]:
    """Return a complete run as JSON values."""
    return {"job": folder.job, "run_dir": folder.uri, "manifest": read_manifest(folder.uri)}


def results_to_open(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Return paths to open and the command that serves the model, by label.

    Of several runs with the same kind of result, the first one counts, but a student comes before a teacher.
    """
    links: dict[str, str] = {}
    for folder in sorted(folders, key=lambda folder: folder.job == "train_teacher"):
        for label, names in _TO_OPEN.items():
            paths = [path for name in names if storage.exists(path := folder.path(name))]
            if paths:
                links.setdefault(label, _shown_path(paths[0]))
    if "model" in links and "://" not in links["model"]:  # the service reads local folders
        links["serve"] = _SERVE.format(shlex.quote(links["model"]))
    return links


def print_links(links: Mapping[str, str]) -> None:
    """Print the result of `results_to_open`."""
    if links:
        print(format_entries({f"  {label.replace('_', ' ')}": text for label, text in links.items()}), flush=True)


def _shown_path(uri: str) -> str:
    """Return a path relative to the working folder if it is inside of it."""
    return os.path.relpath(uri) if "://" not in uri and Path(uri).is_relative_to(Path.cwd()) else uri


def absolute_location(location: ConfigLocation) -> str:
    """Return a location with a relative path made absolute, because workers have other working directories."""
    is_path = "://" not in location.value and not location.value.startswith(location.type.prefixes)
    return str(Path(location.value).absolute()) if is_path and location.type.make_absolute else location.value
