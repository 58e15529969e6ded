"""Command lines with one-line errors and exit codes. Uses only the standard library because the doctor must too."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from distilray.errors import DataQualityError, InputError, find_input_error
from distilray.runtime.signals import interruptible

EXIT_BAD_INPUT = 2
EXIT_INTERNAL_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_CODES = (
    "exit code: 0 success, 1 internal error or unusable data, 2 bad input, 130 interrupted (run it again to resume)"
)


class CommandParser(argparse.ArgumentParser):
    """`ArgumentParser` that reports usage errors in one line, as `InputError`.

    Args:
        description: docstring whose first line is shown.
        details: returns text for the end of `--help`.
    """

    def __init__(self, *, description: str | None, details: Callable[[], str] | None = None, **options: Any) -> None:
        # Without abbreviations, adding an option cannot change the meaning of a command in a script.
        options.setdefault("allow_abbrev", False)
        super().__init__(description=(description or "").partition("\n")[0], **options)
        self._details = details

    def format_help(self) -> str:
        text = super().format_help()
        return text if self._details is None else f"{text}\n{self._details()}\n"

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def run_cli(name: str, main: Callable[[], object]) -> int:
    """Run `main` and return the exit code. Bad input is reported in one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with interruptible():
            main()
        return 0
    except DataQualityError as error:
        print("\n".join([f"{name}: {error}", *error.details]), file=sys.stderr)
        return EXIT_INTERNAL_ERROR
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERNAL_ERROR
    except PermissionError as error:
        path = error.filename or error
        return _bad_input(name, InputError(f"{path}: permission denied; give user {os.getuid()} access to it"))
    except Exception as error:
        cause = find_input_error(error)
        if cause is not None:
            return _bad_input(name, cause)
        logging.getLogger(name).exception("internal error")
        return EXIT_INTERNAL_ERROR


def _bad_input(name: str, error: InputError) -> int:
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add `--dry-run` and `--json`."""
    parser.add_argument("--dry-run", action="store_true", help="validate and print the plan without running")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
