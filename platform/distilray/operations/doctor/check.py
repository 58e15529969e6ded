"""A check: what was found, how bad that is, and the fix; each in bounded time, and none ends the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from distilray.errors import InputError

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")  # the worst last
TIMEOUT_S = 30.0
SETUP = "make setup, then source .venv/bin/activate"
_THREAD = "distilray-check"


@dataclass(frozen=True)
class Finding:
    """What a check has found, and what to do about it; no fix where nothing is to be done."""

    status: Status
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """A line of the examination."""

    status: Status
    name: str
    found: str
    fix: str


@dataclass(frozen=True)
class Row:
    """A check that can be made: its name, and the function that makes it."""

    name: str
    find: Callable[[], Finding]


def ok(found: str) -> Finding:
    """Nothing is to be done."""
    return Finding("ok", found)


def warn(found: str, fix: str) -> Finding:
    """A job would run, worse than it could or not everywhere."""
    return Finding("warn", found, fix)


def fail(found: str, fix: str) -> Finding:
    """A job would not run, or somebody could do harm."""
    return Finding("fail", found, fix)


def not_checked(error: ImportError) -> Finding:
    """A check needs a package that is not installed or does not load."""
    return fail(f"not checked: {error.name or error} cannot be imported", SETUP)


def together(findings: Iterable[Finding], good: str) -> Finding:
    """Several findings as one: of those that are not ok all are told; `good` is said when there are none."""
    bad = [finding for finding in findings if finding.status != "ok"]
    if not bad:
        return ok(good)
    worst = max((finding.status for finding in bad), key=STATUSES.index)
    told, fixes = dict.fromkeys(one.found for one in bad), dict.fromkeys(one.fix for one in bad if one.fix)
    return Finding(worst, "; ".join(told), "; ".join(fixes))


def examine(rows: Sequence[Row], *, timeout_s: float = TIMEOUT_S) -> Iterator[Check]:
    """Makes the checks one after the other, and gives each as it is made.

    Args:
        rows: the checks.
        timeout_s: seconds after which a check counts as failed. Its thread is left behind; it ends with the process.
    """
    for row in rows:
        finding = _in_time(row.find, timeout_s)
        found, fix = (" ".join(text.split()) for text in (finding.found, finding.fix))
        yield Check(finding.status, row.name, found, fix)


def any_hangs() -> bool:
    """Whether a check has not ended that was given up."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def _in_time(find: Callable[[], Finding], timeout_s: float) -> Finding:
    made: list[Finding] = []
    thread = threading.Thread(target=lambda: made.append(_without_traceback(find)), name=_THREAD, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not made:
        return fail(f"no answer within {timeout_s:g} s", "see whether the disk, store or address behind it hangs")
    return made[0]


def _without_traceback(find: Callable[[], Finding]) -> Finding:
    try:
        return find()
    except InputError as error:
        found, _, fix = str(error).partition("; ")
        return fail(found, fix)
    except ImportError as error:
        return not_checked(error)
    except PermissionError as error:
        return fail(f"no permission: {error.filename or error}", "give it to this user, or choose another folder")
    except Exception as error:
        return fail(f"{type(error).__name__}: {error}", "the check itself could not be made; look at what it names")
