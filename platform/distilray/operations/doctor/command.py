"""Command line of `jobs.doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from distilray.errors import InputError
from distilray.operations.doctor.check import Check, has_hanging_check, import_failure, print_results, run_checks
from distilray.operations.doctor.check_table import CheckContext, applicable_checks
from distilray.operations.doctor.cluster_file import cluster_file_checks
from distilray.operations.doctor.packages import import_problems
from distilray.runtime.command_line import CommandParser

if TYPE_CHECKING:
    from distilray.config.base import JobConfig


def diagnose(argv: Sequence[str] | None) -> int:
    """Run the checks that the command line selects and print the results; return 1 if a check fails, else 0.

    Raises:
        InputError: the command line is invalid, or the recipe or cluster file cannot be read.
    """
    args = _parser().parse_intermixed_args(argv)
    if bool(args.job) != bool(args.recipe):
        raise InputError("--job and --recipe: give both or neither; python -m jobs.doctor --help shows the command")
    if args.overrides and not args.recipe:
        raise InputError(f"'{args.overrides[0]}': an override without a recipe; give --job and --recipe with it")
    if args.cluster is not None:
        if args.recipe or args.storage or args.address:
            raise InputError("--cluster: checks only the file; leave out --job, --recipe, --storage and --address")
        return print_results(run_checks(cluster_file_checks(args.cluster)), sys.stdout, as_json=args.json)
    problems = import_problems()
    for package, problem in problems.items():
        if problem.status == "fail":  # makes imports of it raise ImportError instead of crashing this process
            sys.modules[package] = None  # type: ignore[assignment]
    config, recipe_checks = None, []
    try:
        config = _load_config(args.job, args.recipe, args.overrides) if args.recipe else None
    except ImportError as error:
        finding = import_failure(error)
        recipe_checks = [Check("recipe", lambda: finding)]
    context = CheckContext(args.address, config, args.storage, dict(os.environ), problems)
    checks = [*applicable_checks(context), *recipe_checks]
    return print_results(run_checks(checks), sys.stdout, as_json=args.json)


def _load_config(job: str, recipe: str, overrides: Sequence[str]) -> JobConfig:
    from distilray.config.recipe import load_recipe  # its packages may not be installed
    from distilray.stages import STAGES

    if job not in STAGES:
        raise InputError(f"--job {job}: no job with a run folder; choose one of {', '.join(sorted(STAGES))}")
    return load_recipe(recipe, overrides, STAGES[job].config_class)


def exit_process(code: int) -> NoReturn:
    """Exit without waiting for hanging checks, whose libraries would otherwise delay the exit."""
    if has_hanging_check():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m jobs.doctor",
        description="Check this machine, the cluster, the token and a recipe before running a job. Starts nothing.",
        epilog="exit codes: 0 no check failed (there may be warnings), 1 a check failed, 2 bad arguments",
    )
    add = parser.add_argument
    add("--job", help="name of the job to which the recipe belongs, e.g. distill")
    add("--recipe", help="YAML file, e.g. jobs/recipes/distill/card.yaml")
    add("--storage", metavar="URI", help="folder or URI to test for writing; default: run_dir of the recipe")
    add("--address", metavar="URL", help="dashboard of a cluster (http://127.0.0.1:8265) or HOST:6379")
    add("--cluster", metavar="FILE", help="check only this cluster file (cluster.yaml), offline")
    add("--json", action="store_true", help="print one JSON object instead of lines")
    add("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe")
    return parser
