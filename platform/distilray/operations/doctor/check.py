"""Checks: run each in bounded time, turn its errors into a finding, and print it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

from distilray.errors import InputError

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")  # the worst last
SETUP = "make setup, then source .venv/bin/activate"
_TIMEOUT_S = 30.0
_THREAD = "distilray-check"
_COLOURS: dict[Status, str] = {"ok": "32", "warn": "33", "fail": "31"}
_NAME_WIDTH = 14


@dataclass(frozen=True)
class Finding:
    """The result of a check, and its fix if there is something to fix."""

    status: Status
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """A check that was run, as it is printed."""

    status: Status
    name: str
    found: str
    fix: str


@dataclass(frozen=True)
class Row:
    """A check to run."""

    name: str
    find: Callable[[], Finding]


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warn(found: str, fix: str) -> Finding:
    """Return the finding of a job that would run, but worse than it could or not everywhere."""
    return Finding("warn", found, fix)


def fail(found: str, fix: str) -> Finding:
    """Return the finding of a job that would not run, or of a danger."""
    return Finding("fail", found, fix)


def not_checked(error: ImportError) -> Finding:
    return fail(f"not checked: {error.name or error} cannot be imported", SETUP)


def bad_input(error: InputError, prefix: str = "", fix: str = "") -> Finding:
    """Return the finding of an input error, whose message ends with the fix; `fix` is for one that does not."""
    message, _, own_fix = str(error).partition("; ")
    return fail(prefix + message, own_fix or fix)


def together(findings: Iterable[Finding], good: str) -> Finding:
    """Merge findings: all that are not ok, with the worst status; `good` if there are none."""
    bad = [finding for finding in findings if finding.status != "ok"]
    if not bad:
        return ok(good)
    worst = max((finding.status for finding in bad), key=STATUSES.index)
    texts, fixes = dict.fromkeys(one.found for one in bad), dict.fromkeys(one.fix for one in bad if one.fix)
    return Finding(worst, "; ".join(texts), "; ".join(fixes))


def examine(rows: Sequence[Row], *, timeout_s: float = _TIMEOUT_S) -> Iterator[Check]:
    """Run the checks in turn.

    Args:
        timeout_s: seconds after which a check fails. Its thread is left behind and ends with the process.
    """
    for row in rows:
        finding = _in_time(row.find, timeout_s)
        found, fix = (" ".join(text.split()) for text in (finding.found, finding.fix))
        yield Check(finding.status, row.name, found, fix)


def any_hangs() -> bool:
    """Return whether a check that timed out is still running."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def _in_time(find: Callable[[], Finding], timeout_s: float) -> Finding:
    findings: list[Finding] = []
    thread = threading.Thread(target=lambda: findings.append(_without_traceback(find)), name=_THREAD, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not findings:
        return fail(f"no answer within {timeout_s:g} s", "see whether the disk, store or address behind it hangs")
    return findings[0]


def _without_traceback(find: Callable[[], Finding]) -> Finding:
    try:
        return find()
    except InputError as error:
        return bad_input(error)
    except ImportError as error:
        return not_checked(error)
    except PermissionError as error:
        return fail(f"no permission: {error.filename or error}", "give it to this user, or choose another folder")
    except Exception as error:
        return fail(f"{type(error).__name__}: {error}", "the check itself could not be made; look at what it names")


def show(checks: Iterable[Check], out: TextIO, *, as_json: bool) -> int:
    """Print the checks as they are made, then their counts; return the exit code: 1 if one has failed."""
    made: list[Check] = []
    for check in checks:
        made.append(check)
        if not as_json:
            print(line(check, coloured=out.isatty()), file=out, flush=True)
    counts = {status: sum(check.status == status for check in made) for status in STATUSES}
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in made], "counts": counts}, indent=1), file=out)
    else:
        print("doctor:", ", ".join(f"{count} {status}" for status, count in counts.items()), file=out, flush=True)
    return 1 if counts["fail"] else 0


def line(check: Check, *, coloured: bool) -> str:
    """Format a check as `status  name  finding  -> fix`."""
    status = f"{check.status:<4}"
    if coloured:
        status = f"\x1b[{_COLOURS[check.status]}m{status}\x1b[0m"
    fix = f"  -> {check.fix}" if check.fix else ""
    return f"{status}  {_printable(check.name):<{_NAME_WIDTH}}  {_printable(check.found)}{_printable(fix)}"


def _printable(text: str) -> str:
    """Replace control characters, with which a server or a file name could move the cursor of a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
