"""Serve a model folder over HTTP on this machine until Ctrl-C or SIGTERM.

    python -m jobs.serve_fill_mask [--recipe FILE] [--dry-run] [a.b=value ...]

Reads: a model folder with its tokenizer. Writes: nothing.
"""

import sys
from collections.abc import Sequence

from distilray.config.recipe import load_recipe
from distilray.config.recipe_keys import format_keys
from distilray.config.serving import ServeFillMaskConfig
from distilray.console import json_on_stdout
from distilray.runtime.command_line import CommandParser, add_output_options, run_cli

RECIPE = "jobs/recipes/serve_fill_mask/quickstart.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    def serve() -> None:
        parser = CommandParser(
            prog="python -m jobs.serve_fill_mask",
            description=__doc__,
            details=lambda: format_keys(ServeFillMaskConfig),
        )
        parser.add_argument("--recipe", default=RECIPE, help=f"YAML file; default: {RECIPE}")
        add_output_options(parser)
        parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="overrides of the recipe")
        args = parser.parse_intermixed_args(argv)
        config = load_recipe(args.recipe, args.overrides, ServeFillMaskConfig)
        from serve.local import serve_until_stopped  # imports torch

        with json_on_stdout(enabled=args.json) as write_json:
            serve_until_stopped(config, dry_run=args.dry_run, write_json=write_json)

    return run_cli("serve_fill_mask", serve)


if __name__ == "__main__":
    sys.exit(main())
