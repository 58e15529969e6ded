"""The command line of the doctor."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from distilray.config.base import JobConfig
from distilray.config.recipe import load_recipe
from distilray.errors import InputError
from distilray.operations.doctor.check import any_hangs, examine
from distilray.operations.doctor.examination import rows
from distilray.operations.doctor.machine.environment import Orphan
from distilray.operations.doctor.subject import Subject
from distilray.operations.doctor.summary import show
from distilray.runtime.command_line import CommandParser


def diagnose(
    argv: Sequence[str] | None,
    config_class_of: Callable[[str], type[JobConfig]],
    find_orphans: Callable[[], Sequence[Orphan]],
) -> int:
    """Makes all checks of what the command names, and prints them; returns 1 when one fails, else 0.

    Args:
        argv: the command line, that of this process when None.
        config_class_of: name of a job -> what its recipe may say.
        find_orphans: gives the HAProxy processes without their server.

    Raises:
        InputError: a wrong command line, or a recipe that cannot be read.
    """
    given = _parser().parse_intermixed_args(argv)
    if bool(given.job) != bool(given.recipe):
        raise InputError("--job and --recipe: give both, or none; python -m jobs.doctor --help shows the command")
    if given.overrides and not given.recipe:
        raise InputError(f"'{given.overrides[0]}': a change to no recipe; give --job and --recipe with it")
    config = load_recipe(given.recipe, given.overrides, config_class_of(given.job)) if given.recipe else None
    subject = Subject(given.address, config, given.storage, find_orphans, dict(os.environ))
    return show(examine(rows(subject)), sys.stdout, as_json=given.json)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code, also when a check hangs: libraries would wait for it at the end."""
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
    parser.add_argument("--job", help="name of the job that the recipe is of, e.g. distill")
    parser.add_argument("--recipe", help="YAML file, e.g. jobs/recipes/distill/card.yaml")
    parser.add_argument("--storage", metavar="URI", help="folder or URI to try out; the recipe's run_dir when left out")
    parser.add_argument("--address", metavar="URL", help="dashboard of a cluster (http://127.0.0.1:8265) or HOST:6379")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of lines")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe")
    return parser
