"""Command line of the doctor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from distilray.errors import InputError
from distilray.operations.doctor.check import Row, any_hangs, examine, not_checked, show
from distilray.operations.doctor.cluster_file import cluster_file_rows
from distilray.operations.doctor.examination import Subject, rows
from distilray.operations.doctor.packages import import_problems
from distilray.runtime.command_line import CommandParser

if TYPE_CHECKING:
    from distilray.config.base import JobConfig


def diagnose(argv: Sequence[str] | None) -> int:
    """Run and print the checks that the command line asks for; return 1 if one fails, else 0.

    Raises:
        InputError: a wrong command line, or a recipe or cluster file that cannot be read.
    """
    args = _parser().parse_intermixed_args(argv)
    if bool(args.job) != bool(args.recipe):
        raise InputError("--job and --recipe: give both, or none; python -m jobs.doctor --help shows the command")
    if args.overrides and not args.recipe:
        raise InputError(f"'{args.overrides[0]}': a change to no recipe; give --job and --recipe with it")
    if args.cluster is not None:
        if args.recipe or args.storage or args.address:
            raise InputError("--cluster: checks the file alone; leave out --job, --recipe, --storage and --address")
        return show(examine(cluster_file_rows(args.cluster)), sys.stdout, as_json=args.json)
    problems = import_problems()
    for package, problem in problems.items():
        if problem.status == "fail":  # from here on its import raises ImportError, and cannot end this process
            sys.modules[package] = None  # type: ignore[assignment]
    config, unread = None, []
    try:
        config = _load_config(args.job, args.recipe, args.overrides) if args.recipe else None
    except ImportError as error:
        finding = not_checked(error)
        unread = [Row("recipe", lambda: finding)]
    subject = Subject(args.address, config, args.storage, dict(os.environ), problems)
    return show(examine([*rows(subject), *unread]), sys.stdout, as_json=args.json)


def _load_config(job: str, recipe: str, overrides: Sequence[str]) -> JobConfig:
    from distilray.config.recipe import load_recipe  # packages may be missing
    from distilray.stages import STAGES

    if job not in STAGES:
        raise InputError(f"--job {job}: no job with a run folder; there are {', '.join(sorted(STAGES))}")
    return load_recipe(recipe, overrides, STAGES[job].config_class)


def leave(code: int) -> NoReturn:
    """End the process with an exit code, without waiting for a check that hangs, as libraries would."""
    if any_hangs():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m jobs.doctor",
        description="Checks this machine, the cluster, the token and a recipe before a job runs; starts nothing.",
        epilog="exit code: 0 nothing fails (there may be warnings), 1 something does, 2 bad arguments",
    )
    add = parser.add_argument
    add("--job", help="name of the job that the recipe is of, e.g. distill")
    add("--recipe", help="YAML file, e.g. jobs/recipes/distill/card.yaml")
    add("--storage", metavar="URI", help="folder or URI to try out; the recipe's run_dir when left out")
    add("--address", metavar="URL", help="dashboard of a cluster (http://127.0.0.1:8265) or HOST:6379")
    add("--cluster", metavar="FILE", help="check a cluster file (cluster.yaml) and nothing else; offline")
    add("--json", action="store_true", help="one JSON object in place of lines")
    add("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe")
    return parser
