import io
import json

import pytest

from distilray.operations.doctor.check import Check
from distilray.operations.doctor.summary import counts, line, show

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
    assert counts([]) == "0 ok, 0 warn, 0 fail"


def test_json_holds_the_same():
    out = io.StringIO()
    show([OK, FAIL], out, as_json=True)
    found = json.loads(out.getvalue())
    assert found["checks"][1] == {"status": "fail", "name": "token", "found": "mode 0644", "fix": "chmod 600 it"}
    assert found["counts"] == {"ok": 1, "warn": 0, "fail": 1}
