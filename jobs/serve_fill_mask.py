"""Serves a model folder over HTTP on this machine until Ctrl-C or SIGTERM.

    python -m jobs.serve_fill_mask [--recipe FILE] [--dry-run] [a.b=value ...]

Reads: a model folder with its tokenizer. Writes: nothing.
"""

import sys
from collections.abc import Sequence

from distilray.config.recipe import load_recipe
from distilray.config.serving import ServeFillMaskConfig
from distilray.runtime.command_line import CommandParser, run_cli
from serve.local import serve_until_stopped

RECIPE = "jobs/recipes/serve_fill_mask/quickstart.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""

    def work() -> None:
        parser = CommandParser(prog="python -m jobs.serve_fill_mask", description=__doc__)
        parser.add_argument("--recipe", default=RECIPE, help=f"YAML file, {RECIPE} when left out")
        parser.add_argument("--dry-run", action="store_true", help="validate, print the plan, start nothing")
        parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe")
        given = parser.parse_intermixed_args(argv)
        config = load_recipe(given.recipe, given.overrides, ServeFillMaskConfig)
        serve_until_stopped(config, dry_run=given.dry_run)

    return run_cli("serve_fill_mask", work)


if __name__ == "__main__":
    sys.exit(main())
