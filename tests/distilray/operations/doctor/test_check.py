import io
import json
import threading
import time

import pytest

from distilray.errors import InputError
from distilray.operations.doctor.check import (
    Check,
    Finding,
    Row,
    any_hangs,
    examine,
    fail,
    line,
    ok,
    show,
    together,
    warn,
)


def only(find, **options) -> Check:
    (check,) = examine([Row("a check", find)], **options)
    return check


def test_a_check_that_raises_is_a_line_that_has_failed():
    def find() -> Finding:
        raise KeyError("no such thing")

    check = only(find)
    assert (check.status, check.name) == ("fail", "a check")
    assert "KeyError: 'no such thing'" in check.found


def test_a_check_whose_package_is_missing_is_not_checked():
    def find() -> Finding:
        raise ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package")

    check = only(find)
    assert (check.status, check.found) == ("fail", "not checked: no_such_package cannot be imported")
    assert "make setup" in check.fix


def test_a_check_that_may_not_read_names_the_permission():
    def find() -> Finding:
        raise PermissionError(13, "Permission denied", "/closed/file")

    assert only(find).found == "no permission: /closed/file"


def test_bad_input_is_told_with_its_own_fix():
    def find() -> Finding:
        raise InputError("here: no manifest; run its job")

    assert only(find) == Check("fail", "a check", "here: no manifest", "run its job")


def test_a_check_that_hangs_fails_in_time_and_the_next_one_is_made():
    never = threading.Event()
    started = time.monotonic()
    checks = list(examine([Row("hangs", never.wait), Row("next", lambda: ok("there"))], timeout_s=0.05))
    assert time.monotonic() - started < 5
    assert [check.status for check in checks] == ["fail", "ok"]
    assert "no answer within 0.05 s" in checks[0].found
    never.set()
    while any_hangs():
        time.sleep(0.01)


def test_a_finding_of_many_lines_is_one_line():
    assert only(lambda: fail("one\ntwo", "three\n four")) == Check("fail", "a check", "one two", "three four")


@pytest.mark.parametrize(
    ("findings", "status"),
    [([], "ok"), ([ok("a")], "ok"), ([ok("a"), warn("b", "c")], "warn"), ([fail("a", "x"), warn("b", "c")], "fail")],
)
def test_of_several_findings_the_worst_counts(findings, status):
    assert together(findings, "good").status == status


def test_of_several_findings_all_that_are_bad_are_told_once():
    assert together([warn("a", "x"), ok("b"), fail("c", "x")], "good") == fail("a; c", "x")
    assert together([ok("a")], "good") == ok("good")


OK = Check("ok", "disk", "room", "")
WARN = Check("warn", "ports", "8000 is open", "close it")
FAIL = Check("fail", "token", "mode 0644", "chmod 600 it")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_has_status_name_finding_and_fix():
    assert line(FAIL, coloured=False) == "fail  token           mode 0644  -> chmod 600 it"
    assert "->" not in line(OK, coloured=False)


def test_only_a_terminal_sees_colours():
    plain, terminal = io.StringIO(), Terminal()
    for out in (plain, terminal):
        show([OK, WARN, FAIL], out, as_json=False)
    assert "\x1b" not in plain.getvalue()
    assert [code in terminal.getvalue() for code in ("\x1b[32m", "\x1b[33m", "\x1b[31m")] == [True] * 3


def test_what_a_server_says_cannot_steer_the_terminal():
    told = line(Check("fail", "jobs api", "answer \x1b[2J\r\x07", "look\x00"), coloured=False)
    assert all(char.isprintable() for char in told)


@pytest.mark.parametrize(("checks", "code"), [([], 0), ([OK, WARN], 0), ([OK, FAIL, WARN], 1)])
@pytest.mark.parametrize("as_json", [True, False])
def test_warnings_are_allowed_and_failures_are_not(checks, code, as_json):
    assert show(checks, io.StringIO(), as_json=as_json) == code


def test_the_last_line_has_the_counts():
    out = io.StringIO()
    show([OK, FAIL, OK], out, as_json=False)
    assert out.getvalue().splitlines()[-1] == "doctor: 2 ok, 0 warn, 1 fail"


def test_json_holds_the_same():
    out = io.StringIO()
    show([OK, FAIL], out, as_json=True)
    found = json.loads(out.getvalue())
    assert found["checks"][1] == {"status": "fail", "name": "token", "found": "mode 0644", "fix": "chmod 600 it"}
    assert found["counts"] == {"ok": 1, "warn": 0, "fail": 1}
