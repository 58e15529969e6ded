"""Checks: run them with a time limit, turn their errors into findings, and print the results."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

from distilray.console import use_color
from distilray.errors import InputError

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")  # from best to worst
SETUP = "make setup, then source .venv/bin/activate"
_TIMEOUT_S = 30.0
_THREAD_NAME = "distilray-check"
_COLORS: dict[Status, str] = {"ok": "32", "warn": "33", "fail": "31"}  # ANSI escape codes
_NAME_WIDTH = 14


@dataclass(frozen=True)
class Finding:
    """Outcome of a check: a message and, unless the status is `ok`, a fix."""

    status: Status
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """A named check that has not run yet."""

    name: str
    run: Callable[[], Finding]


@dataclass(frozen=True)
class CheckResult:
    """Printable result of a check; messages are single lines."""

    status: Status
    name: str
    message: str
    fix: str


def ok(message: str) -> Finding:
    return Finding("ok", message)


def warn(message: str, fix: str) -> Finding:
    """Return a finding that allows a job to run, but more slowly, less safely or only on some machines."""
    return Finding("warn", message, fix)


def fail(message: str, fix: str) -> Finding:
    """Return a finding that prevents a job from running or is a security risk."""
    return Finding("fail", message, fix)


def import_failure(error: ImportError) -> Finding:
    return fail(f"not checked: {error.name or error} cannot be imported", SETUP)


def input_failure(error: InputError, prefix: str = "", fix: str = "") -> Finding:
    """Return the finding for an input error.

    Args:
        prefix: inserted before the message.
        fix: used if the message itself does not end with a fix.
    """
    message, _, own_fix = str(error).partition("; ")
    return fail(prefix + message, own_fix or fix)


def combine(findings: Iterable[Finding], ok_message: str) -> Finding:
    """Merge all findings that are not ok into one with the worst status, or return `ok(ok_message)` if all are ok."""
    problems = [finding for finding in findings if finding.status != "ok"]
    if not problems:
        return ok(ok_message)
    worst = max((finding.status for finding in problems), key=STATUSES.index)
    messages = dict.fromkeys(finding.message for finding in problems)
    fixes = dict.fromkeys(finding.fix for finding in problems if finding.fix)
    return Finding(worst, "; ".join(messages), "; ".join(fixes))


def run_checks(checks: Sequence[Check], *, timeout_s: float = _TIMEOUT_S) -> Iterator[CheckResult]:
    """Run the checks one after the other.

    Args:
        timeout_s: seconds after which a check fails. Its daemon thread continues until the process exits.
    """
    for check in checks:
        finding = _run_with_timeout(check.run, timeout_s)
        message, fix = (" ".join(text.split()) for text in (finding.message, finding.fix))
        yield CheckResult(finding.status, check.name, message, fix)


def has_hanging_check() -> bool:
    """Return whether a check that timed out is still running."""
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())


def _run_with_timeout(run: Callable[[], Finding], timeout_s: float) -> Finding:
    findings: list[Finding] = []
    thread = threading.Thread(target=lambda: findings.append(_run_safely(run)), name=_THREAD_NAME, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not findings:
        return fail(f"no answer within {timeout_s:g} s", "check whether the disk, store or server that it uses hangs")
    return findings[0]


def _run_safely(run: Callable[[], Finding]) -> Finding:
    """Run a check and turn its exceptions into findings."""
    try:
        return run()
    except InputError as error:
        return input_failure(error)
    except ImportError as error:
        return import_failure(error)
    except PermissionError as error:
        return fail(f"no permission: {error.filename or error}", "grant it to this user, or choose another folder")
    except Exception as error:
        return fail(f"{type(error).__name__}: {error}", "the check itself failed; investigate its error message")


def print_results(results: Iterable[CheckResult], out: TextIO, *, as_json: bool) -> int:
    """Print each result as soon as it is available, then the counts. Return exit code 1 if any check failed, else 0."""
    printed: list[CheckResult] = []
    for result in results:
        printed.append(result)
        if not as_json:
            print(format_result(result, with_color=use_color(out)), file=out, flush=True)
    counts = {status: sum(result.status == status for result in printed) for status in STATUSES}
    if as_json:
        print(json.dumps({"checks": [asdict(result) for result in printed], "counts": counts}, indent=1), file=out)
    else:
        print("doctor:", ", ".join(f"{count} {status}" for status, count in counts.items()), file=out, flush=True)
    return 1 if counts["fail"] else 0


def format_result(result: CheckResult, *, with_color: bool) -> str:
    """Format a result as `status  name  message  -> fix`."""
    status = f"{result.status:<4}"
    if with_color:
        status = f"\x1b[{_COLORS[result.status]}m{status}\x1b[0m"
    fix = f"  -> {result.fix}" if result.fix else ""
    return f"{status}  {_printable(result.name):<{_NAME_WIDTH}}  {_printable(result.message)}{_printable(fix)}"


def _printable(text: str) -> str:
    """Replace control characters, since servers and file names could inject terminal escape sequences."""
    return "".join(char if char.isprintable() else "?" for char in text)
