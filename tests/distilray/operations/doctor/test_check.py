import io
import json
import threading
import time

import pytest

from distilray.errors import InputError
from distilray.operations.doctor.check import (
    Check,
    CheckResult,
    Finding,
    combine,
    fail,
    format_result,
    has_hanging_check,
    ok,
    print_results,
    run_checks,
    warn,
)


def only(find, **options) -> CheckResult:
    (check,) = run_checks([Check("a check", find)], **options)
    return check


def test_a_check_that_raises_fails():
    def find() -> Finding:
        raise KeyError("no such thing")

    check = only(find)
    assert (check.status, check.name) == ("fail", "a check")
    assert "KeyError: 'no such thing'" in check.message


def test_a_check_whose_package_is_missing_is_not_checked():
    def find() -> Finding:
        raise ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package")

    check = only(find)
    assert (check.status, check.message) == ("fail", "not checked: no_such_package cannot be imported")
    assert "make setup" in check.fix


def test_a_check_that_may_not_read_names_the_permission():
    def find() -> Finding:
        raise PermissionError(13, "Permission denied", "/closed/file")

    assert only(find).message == "no permission: /closed/file"


def test_an_input_error_is_reported_with_its_own_fix():
    def find() -> Finding:
        raise InputError("here: no manifest; run its job")

    assert only(find) == CheckResult("fail", "a check", "here: no manifest", "run its job")


def test_a_check_that_hangs_fails_in_time_and_the_next_one_runs():
    never = threading.Event()
    started = time.monotonic()
    checks = list(run_checks([Check("hangs", never.wait), Check("next", lambda: ok("there"))], timeout_s=0.05))
    assert time.monotonic() - started < 5
    assert [check.status for check in checks] == ["fail", "ok"]
    assert "no answer within 0.05 s" in checks[0].message
    never.set()
    while has_hanging_check():
        time.sleep(0.01)


def test_a_finding_of_many_lines_is_one_line():
    assert only(lambda: fail("one\ntwo", "three\n four")) == CheckResult("fail", "a check", "one two", "three four")


@pytest.mark.parametrize(
    ("findings", "status"),
    [([], "ok"), ([ok("a")], "ok"), ([ok("a"), warn("b", "c")], "warn"), ([fail("a", "x"), warn("b", "c")], "fail")],
)
def test_of_several_findings_the_worst_counts(findings, status):
    assert combine(findings, "good").status == status


def test_each_problem_of_several_findings_is_reported_once():
    assert combine([warn("a", "x"), ok("b"), fail("c", "x")], "good") == fail("a; c", "x")
    assert combine([ok("a")], "good") == ok("good")


OK = CheckResult("ok", "disk", "room", "")
WARN = CheckResult("warn", "ports", "8000 is open", "close it")
FAIL = CheckResult("fail", "token", "mode 0644", "chmod 600 it")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_has_status_name_finding_and_fix():
    assert format_result(FAIL, use_color=False) == "fail  token           mode 0644  -> chmod 600 it"
    assert "->" not in format_result(OK, use_color=False)


def test_only_a_terminal_gets_colors():
    plain, terminal = io.StringIO(), Terminal()
    for out in (plain, terminal):
        print_results([OK, WARN, FAIL], out, as_json=False)
    assert "\x1b" not in plain.getvalue()
    assert [code in terminal.getvalue() for code in ("\x1b[32m", "\x1b[33m", "\x1b[31m")] == [True] * 3


def test_the_response_of_a_server_cannot_control_the_terminal():
    text = format_result(CheckResult("fail", "jobs api", "answer \x1b[2J\r\x07", "look\x00"), use_color=False)
    assert all(char.isprintable() for char in text)


@pytest.mark.parametrize(("checks", "code"), [([], 0), ([OK, WARN], 0), ([OK, FAIL, WARN], 1)])
@pytest.mark.parametrize("as_json", [True, False])
def test_warnings_are_allowed_and_failures_are_not(checks, code, as_json):
    assert print_results(checks, io.StringIO(), as_json=as_json) == code


def test_the_last_line_has_the_counts():
    out = io.StringIO()
    print_results([OK, FAIL, OK], out, as_json=False)
    assert out.getvalue().splitlines()[-1] == "doctor: 2 ok, 0 warn, 1 fail"


def test_json_holds_the_same():
    out = io.StringIO()
    print_results([OK, FAIL], out, as_json=True)
    printed = json.loads(out.getvalue())
    assert printed["checks"][1] == {"status": "fail", "name": "token", "message": "mode 0644", "fix": "chmod 600 it"}
    assert printed["counts"] == {"ok": 1, "warn": 0, "fail": 1}
