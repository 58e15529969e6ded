"""Jobs: parse the command line, validate, print the plan or run, and record the run."""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from distilray.config.base import ConfigLocation, JobConfig, RayConfig, input_locations, map_locations
from distilray.config.paths import expand_home
from distilray.config.recipe import load_recipe
from distilray.config.sample import resolve_sample
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.command_line import CommandParser, run_cli
from distilray.runtime.environment import load_secrets
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import CONFIG_FILE, MANIFEST_FILE, RunFolder, RunMismatchError, is_complete

C = TypeVar("C", bound=JobConfig)


@dataclass(frozen=True)
class Outcome:
    """What a job did: a line for people, numbers and hand-overs for the manifest."""

    summary: str
    counts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


class Quantity(str):
    """Text of a plan with the number behind it, for the table of a pipeline.

    Attributes:
        unit: `s`, `bytes`, or of the work: steps, examples, texts.
    """

    number: float
    unit: str

    def __new__(cls, text: str, number: float, unit: str) -> Self:
        quantity = super().__new__(cls, text)
        quantity.number, quantity.unit = number, unit
        return quantity


def estimated_wall_time(seconds: float, ray: RayConfig, note: str) -> Quantity:
    """Return the time of work that is spread over all cores, for a plan.

    Args:
        seconds: of one core.
        note: behind the time.
    """
    return Quantity(f"about {format_duration(seconds)} {note}", seconds / (ray.num_cpus or os.cpu_count() or 1), "s")


@dataclass(frozen=True)
class Job(Generic[C]):
    """A stage that can be run.

    Attributes:
        name: as in `python -m jobs.<name>`.
        config_class: of its recipe.
        plan: validates the inputs and describes the run, without starting anything.
        run: does the work inside the run folder.
        show: prints the result of a complete run, beyond its summary line.
        pin: returns a location as every machine reads it (a model of the hub by its commit), or raises `InputError`.
        files: returns what manifests record of an input, by name.
        is_view: whether the result is a view of its inputs, which replaces that of other inputs in its folder.
    """

    name: str
    config_class: type[C]
    plan: Callable[[C], Mapping[str, object]]
    run: Callable[[C, RunFolder], Outcome]
    show: Callable[[RunFolder], None] | None = None
    pin: Callable[[ConfigLocation], str] = lambda each: each.value
    files: Callable[[str, ConfigLocation], Mapping[str, str]] = lambda name, each: {name: resolve_sample(each.value)}
    is_view: bool = False

    def dry_run(self, recipe: str, overrides: Sequence[str] = ()) -> None:
        """Validates the recipe and its inputs and prints the plan.

        Raises:
            InputError: anything that the user can mend.
        """
        plan = self.plan(self._pinned(load_recipe(recipe, overrides, self.config_class)))
        lines = [f"{key:<16} {value}" for key, value in plan.items()]
        print("\n".join([f"{self.name}: plan, nothing started", *lines]), flush=True)

    def execute(self, recipe: str, overrides: Sequence[str] = ()) -> RunFolder:
        """Run the job with a recipe, see `complete`."""
        return self.complete(load_recipe(recipe, overrides, self.config_class))

    def complete(
        self, given: C, *, sets_aside: bool = False, before_run: Callable[[], object] = lambda: None
    ) -> RunFolder:
        """Run the job, or find it complete; print its summary line and return the complete run.

        Args:
            sets_aside: whether a run in a local folder whose config or inputs have changed is renamed and run again.
            before_run: called unless the run is complete.

        Raises:
            InputError: anything that the user can mend.
        """
        started = time.monotonic()
        config, folder = self.prepare(given)
        other: RunMismatchError | None = None
        try:
            done = folder.complete_manifest()
        except RunMismatchError as error:
            if not (self.is_view and is_complete(folder.uri)) and not (sets_aside and storage.is_local(folder.uri)):
                raise
            done, other = None, error
        if done is not None:
            summary = f"{self.name}: {done['run']['summary']} (complete since {done['run']['finished']}, skipped)"
        else:
            self.plan(config)  # the run before stays when the new inputs cannot be used
            if other is not None:
                self._make_room(folder, other)
            before_run()
            with folder.owned():
                folder.begin()
                outcome = self.run(config, folder)
                folder.finish(outcome.counts, outcome.outputs, outcome.summary)
            summary = f"{self.name}: {outcome.summary} in {format_duration(time.monotonic() - started)}"
        print(f"{summary} -> {given.run_dir}", flush=True)
        return folder

    def prepare(self, given: C) -> tuple[C, RunFolder]:
        """Return the config with pinned, absolute locations, and the run folder with its inputs.

        Raises:
            InputError: a location cannot be used.
        """
        config = map_locations(self._pinned(given), absolute)
        return config, RunFolder(self.name, config, self.inputs(config))

    def inputs(self, config: C) -> dict[str, str]:
        """The files and folders that a run reads, by their names in its manifest."""
        found = input_locations(config, lambda each: not each.location.is_optional or is_complete(each.value))
        return {key: uri for name, each in found.items() for key, uri in self.files(name, each).items()}

    def _pinned(self, config: C) -> C:
        """The config with pinned locations; all that cannot be used are named in one error."""
        faults: list[InputError] = []

        def pin(each: ConfigLocation) -> str:
            try:
                return self.pin(each)
            except InputError as fault:
                faults.append(fault)
                return each.value

        pinned = map_locations(config, pin)
        if faults:
            raise faults[0] if len(faults) == 1 else InputError("; ".join(map(str, faults)))
        return pinned

    def _make_room(self, folder: RunFolder, other: RunMismatchError) -> None:
        """Remove an outdated view, or rename the folder of another run."""
        if self.is_view and is_complete(folder.uri):
            for name in (MANIFEST_FILE, CONFIG_FILE):
                storage.remove_file(folder.path(name))
        else:
            print(f"{self.name}: {other.differing} changed; the run before is now {folder.set_aside()}", flush=True)


def run_command(
    name: str,
    load: Callable[[], Job[Any]],
    argv: Sequence[str] | None = None,
    *,
    about: str | None = None,
    validate: Callable[[str], str] | None = None,
) -> int:
    """Run the command line of a job and return the exit code: 0 done, 1 internal fault, 2 bad input, 130 interrupted.

    Args:
        load: imports the job, after the command line was checked.
        about: docstring whose first line `--help` shows.
        validate: checks a file of the kind that the job writes for others, and describes it in one line.
    """

    def work() -> None:
        load_secrets(os.environ)
        arguments = _parser(name, about, validates=validate is not None).parse_intermixed_args(argv)
        if validate is not None and arguments.validate is not None:
            print(validate(expand_home(arguments.validate)), flush=True)
            return
        if arguments.recipe is None:
            shown = f"python -m jobs.{name} --help shows the command"
            raise InputError(f"the following arguments are required: --recipe; {shown}")
        job = load()
        if arguments.dry_run:
            job.dry_run(arguments.recipe, arguments.overrides)
            return
        folder = job.execute(arguments.recipe, arguments.overrides)
        if job.show is not None:
            job.show(folder)

    return run_cli(name, work)


def _parser(name: str, about: str | None, *, validates: bool) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m jobs.{name}",
        description=about,
        epilog="exit code: 0 done, 1 internal fault, 2 bad input, 130 interrupted (run it again to resume)",
    )
    parser.add_argument("--recipe", help=f"YAML file; jobs/recipes/{name}/ has some")
    parser.add_argument("--dry-run", action="store_true", help="validate, print the plan, start nothing")
    if validates:
        parser.add_argument(
            "--validate", metavar="FILE", help="check a file of the kind that this job writes; run nothing"
        )
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe")
    return parser


def absolute(each: ConfigLocation) -> str:
    """Return a location with a relative path made absolute, since workers have other working folders."""
    is_path = "://" not in each.value and not each.value.startswith(each.location.prefixes)
    return str(Path(each.value).absolute()) if is_path and each.location.is_absolute else each.value
