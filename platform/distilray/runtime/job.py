"""The face that every job has: parse, validate, plan or run, record; one line and exit code 2 for bad input."""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from distilray.config.base import Config, JobConfig, location_fields
from distilray.config.paths import expand_home
from distilray.config.recipe import load_recipe
from distilray.errors import InputError
from distilray.runtime.command_line import CommandParser, exit_code
from distilray.runtime.environment import load_secrets
from distilray.runtime.reporting.progress import duration
from distilray.runtime.run_folder import RunFolder

C = TypeVar("C", bound=JobConfig)
S = TypeVar("S", bound=Config)


@dataclass(frozen=True)
class Outcome:
    """What a job did: a line for people, numbers and hand-overs for the manifest."""

    summary: str
    counts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job(Generic[C]):
    """A station of the line as a command.

    Attributes:
        name: as in `python -m jobs.<name>`.
        config_class: what its recipe may say.
        inputs: what it reads, by name: folders of earlier stations, or files.
        plan: validates the inputs and says what a run would do; starts nothing.
        run: does the work inside the run folder.
        about: the docstring of its module in `jobs`, whose first line `--help` shows.
        show: prints what a complete run found, beyond its summary line.
        prepare: fetches or pins what the config names by something else than its place; the run sees what it returns.
        validate: checks a file of the kind that the job makes for others, and says in a line what it is.
    """

    name: str
    config_class: type[C]
    inputs: Callable[[C], Mapping[str, str]]
    plan: Callable[[C], Mapping[str, object]]
    run: Callable[[C, RunFolder], Outcome]
    about: str | None = None
    show: Callable[[RunFolder], None] | None = None
    prepare: Callable[[C], C] | None = None
    validate: Callable[[str], str] | None = None

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Runs the command line and returns the exit code: 0 done, 1 internal fault, 2 bad input, 130 interrupted."""

        def work() -> None:
            load_secrets(os.environ)
            arguments = self._parser().parse_intermixed_args(argv)
            if self.validate is not None and arguments.validate is not None:
                print(self.validate(expand_home(arguments.validate)), flush=True)
                return
            if arguments.recipe is None:
                shown = f"python -m jobs.{self.name} --help shows the command"
                raise InputError(f"the following arguments are required: --recipe; {shown}")
            if arguments.dry_run:
                self.dry_run(arguments.recipe, arguments.overrides)
                return
            folder = self.execute(arguments.recipe, arguments.overrides)
            if self.show is not None:
                self.show(folder)

        return exit_code(self.name, work)

    def dry_run(self, recipe: str, overrides: Sequence[str] = ()) -> None:
        """Validates the recipe and its inputs and prints the plan.

        Raises:
            InputError: anything that the user can mend.
        """
        given = load_recipe(recipe, overrides, self.config_class)
        plan = self.plan(self.prepare(given) if self.prepare else given)
        lines = [f"{key:<16} {value}" for key, value in plan.items()]
        print("\n".join([f"{self.name}: plan, nothing started", *lines]), flush=True)

    def execute(self, recipe: str, overrides: Sequence[str] = ()) -> RunFolder:
        """Runs the job, or finds it complete, prints its summary line and returns the complete run.

        Raises:
            InputError: anything that the user can mend.
        """
        started = time.monotonic()
        given = load_recipe(recipe, overrides, self.config_class)
        config = absolute_folders(self.prepare(given) if self.prepare else given)
        folder = RunFolder(self.name, config, self.inputs(config))
        done = folder.complete_manifest()
        if done is not None:
            summary = f"{self.name}: {done['run']['summary']} (complete since {done['run']['finished']}, skipped)"
        else:
            self.plan(config)
            with folder.owned():
                folder.begin()
                outcome = self.run(config, folder)
                folder.finish(outcome.counts, outcome.outputs, outcome.summary)
            summary = f"{self.name}: {outcome.summary} in {duration(time.monotonic() - started)}"
        print(f"{summary} -> {given.run_dir}", flush=True)
        return folder

    def _parser(self) -> argparse.ArgumentParser:
        parser = CommandParser(
            prog=f"python -m jobs.{self.name}",
            description=self.about,
            epilog="exit code: 0 done, 1 internal fault, 2 bad input, 130 interrupted (run it again to resume)",
        )
        parser.add_argument("--recipe", help=f"YAML file; jobs/recipes/{self.name}/ has some")
        parser.add_argument("--dry-run", action="store_true", help="validate, print the plan, start nothing")
        if self.validate is not None:
            parser.add_argument(
                "--validate", metavar="FILE", help="check a file of the kind that this job writes; run nothing"
            )
        parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe")
        return parser


def absolute_folders(config: C) -> C:
    """The config with its relative folders made absolute, also in its sections: Ray starts workers in other folders."""
    return _absolute(config)


def _absolute(config: S) -> S:
    changed: dict[str, Any] = {}
    marks = location_fields(type(config))
    for name, value in config:
        if isinstance(value, Config):
            changed[name] = _absolute(value)
        elif isinstance(value, str) and name in marks and marks[name].is_absolute:
            is_path = "://" not in value and not value.startswith(marks[name].prefixes)
            changed[name] = str(Path(value).absolute()) if is_path else value
    return config.model_copy(update=changed)


def overrides_by_job(jobs: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of a line of jobs, `JOB.a.b=value` each, as `a.b=value` under the job's name.

    Raises:
        InputError: an override that begins with no job of the line.
    """
    found: dict[str, list[str]] = {job: [] for job in jobs}
    for override in overrides:
        job, dot, rest = override.partition(".")
        if not dot or job not in found:
            raise InputError(f"'{override}': begin with the job that it changes, one of {', '.join(jobs)}")
        found[job].append(rest)
    return found
