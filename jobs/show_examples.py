"""Show examples: decode rows of shards with their segments, masks and labels.

    python -m jobs.show_examples SHARDS_DIR [--split train|heldout] [--start ROW] [--rows N] [--epoch E]

Reads: a run folder of jobs.encode_corpus. Writes: nothing; prints the examples.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from distilray.pretraining_data.viewer import LEGEND, ExampleViewer
from distilray.runtime.command_line import CommandParser, run_cli


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m jobs.show_examples", description=__doc__)
    parser.add_argument("shards_dir", help="run folder of jobs.encode_corpus, a path or URI")
    parser.add_argument("--split", default="train", choices=["train", "heldout"], help="default: train")
    parser.add_argument("--start", type=int, default=0, help="number of the first row; default: 0")
    parser.add_argument("--rows", type=int, default=5, help="number of rows; default: 5")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of dynamic masks; default: 0")
    return run_cli("show_examples", lambda: _show(parser.parse_args(argv)))


def _show(args: argparse.Namespace) -> None:
    texts = ExampleViewer.open(args.shards_dir, args.split, epoch=args.epoch).rows(args.start, args.rows)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(LEGEND, style="dim")
    for text in texts:
        console.print(text)


if __name__ == "__main__":
    sys.exit(main())
