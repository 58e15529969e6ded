"""Show examples: rows of the shards decoded, with segments, masks and labels; in colours on a terminal.

    python -m jobs.show_examples SHARDS_DIR [--split train|heldout] [--start ROW] [--rows N] [--epoch E]

Reads: a run folder of jobs.encode_corpus. Writes: nothing but its output.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from distilray.pretraining_data.viewer import LEGEND, ExampleViewer
from distilray.runtime.command_line import CommandParser, run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the examples; returns the exit code."""
    parser = CommandParser(prog="python -m jobs.show_examples", description=__doc__)
    parser.add_argument("shards_dir", help="run folder of jobs.encode_corpus, a path or URI")
    parser.add_argument("--split", default="train", choices=["train", "heldout"], help="train when left out")
    parser.add_argument("--start", type=int, default=0, help="number of the first row, 0 when left out")
    parser.add_argument("--rows", type=int, default=5, help="how many, 5 when left out")
    parser.add_argument("--epoch", type=int, default=0, help="whose masks, where they are drawn anew in each epoch")
    return run_cli("show_examples", lambda: show(parser.parse_args(argv)))


def show(given: argparse.Namespace) -> None:
    """Prints what was asked for."""
    texts = ExampleViewer.open(given.shards_dir, given.split, epoch=given.epoch).rows(given.start, given.rows)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(LEGEND, style="dim")
    for text in texts:
        console.print(text)


if __name__ == "__main__":
    sys.exit(main())
