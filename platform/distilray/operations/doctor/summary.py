"""The checks as lines for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TextIO

from distilray.operations.doctor.check import STATUSES, Check, Status

EXIT_FAILED = 1
_COLOURS: dict[Status, str] = {"ok": "32", "warn": "33", "fail": "31"}
_NAME_WIDTH = 14


def line(check: Check, *, coloured: bool) -> str:
    """`status  name  what was found  -> fix`."""
    status = f"{check.status:<4}"
    if coloured:
        status = f"\x1b[{_COLOURS[check.status]}m{status}\x1b[0m"
    fix = f"  -> {check.fix}" if check.fix else ""
    return f"{status}  {_plain(check.name):<{_NAME_WIDTH}}  {_plain(check.found)}{_plain(fix)}"


def counts(checks: Sequence[Check]) -> str:
    """How many there are of each status."""
    found = Counter(check.status for check in checks)
    return ", ".join(f"{found[status]} {status}" for status in STATUSES)


def show(checks: Iterable[Check], out: TextIO, *, as_json: bool) -> int:
    """Writes the checks as they are made, and their counts; returns the exit code: 1 when one has failed."""
    made: list[Check] = []
    for check in checks:
        made.append(check)
        if not as_json:
            print(line(check, coloured=out.isatty()), file=out, flush=True)
    if as_json:
        found = Counter(check.status for check in made)
        numbers = {status: found[status] for status in STATUSES}
        print(json.dumps({"checks": [asdict(check) for check in made], "counts": numbers}, indent=1), file=out)
    else:
        print(f"doctor: {counts(made)}", file=out, flush=True)
    return EXIT_FAILED if any(check.status == "fail" for check in made) else 0


def _plain(text: str) -> str:
    """Without control characters: what a server or a file name says must not move the cursor of a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
