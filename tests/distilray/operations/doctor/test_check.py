import io
import json

import pytest

from distilray.errors import InputError
from distilray.operations.doctor import command
from distilray.operations.doctor.check import (
    Check,
    CheckResult,
    combine,
    fail,
    format_result,
    has_hanging_check,
    ok,
    print_results,
    run_checks,
    warn,
)

OK = CheckResult("ok", "disk", "room", "")
WARN = CheckResult("warn", "ports", "8000 is open", "close it")
FAIL = CheckResult("fail", "token", "mode 0644", "chmod 600 it")


@pytest.mark.parametrize(
    ("error", "message", "fix"),
    [
        (KeyError("no such thing"), "KeyError: 'no such thing'", "investigate its error message"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "not checked: x cannot be imported", "make setup"),
        (ImportError("no x"), "not checked: no x cannot be imported", "make setup"),
        (PermissionError(13, "Permission denied", "/closed/file"), "no permission: /closed/file", "grant it"),
        (InputError("here: no manifest; run its job"), "here: no manifest", "run its job"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_is_a_failed_check_with_a_fix(error, message, fix):
    def raise_error():
        raise error

    (result,) = run_checks([Check("a check", raise_error)])
    assert (result.status, result.name, result.message) == ("fail", "a check", message)
    assert fix in result.fix


def test_a_hanging_check_fails_and_delays_neither_the_next_one_nor_the_exit(hang, monkeypatch):
    checks = list(run_checks([Check("hangs", hang), Check("next", lambda: ok("done"))], timeout_s=0.5))
    assert [check.status for check in checks] == ["fail", "ok"]
    assert "no answer within 0.5 s" in checks[0].message
    codes = []
    monkeypatch.setattr(command.os, "_exit", codes.append)
    with pytest.raises(SystemExit):  # unreachable after the real `_exit`
        command.exit_process(1)
    assert codes == [1]


def test_a_process_whose_checks_have_ended_exits_normally():
    list(run_checks([Check("a check", lambda: ok("done"))]))
    assert not has_hanging_check()
    with pytest.raises(SystemExit) as raised:
        command.exit_process(1)
    assert raised.value.code == 1


def test_messages_and_fixes_are_single_lines():
    (result,) = run_checks([Check("a check", lambda: fail("one\ntwo", "three\n four"))])
    assert result == CheckResult("fail", "a check", "one two", "three four")


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], ok("good")),
        ([ok("a")], ok("good")),
        ([ok("a"), warn("b", "c")], warn("b", "c")),
        ([fail("a", "x"), warn("b", "y")], fail("a; b", "x; y")),
        ([warn("a", "x"), ok("b"), fail("c", "x"), warn("a", "x")], fail("a; c", "x")),
    ],
)
def test_combined_findings_have_the_worst_status_and_each_problem_once(findings, expected):
    assert combine(findings, "good") == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(results: list[CheckResult], *, out: io.StringIO | None = None, as_json: bool = False) -> tuple[int, str]:
    out = out or io.StringIO()
    return print_results(results, out, as_json=as_json), out.getvalue()


def test_results_are_lines_followed_by_counts_with_colors_only_in_a_terminal():
    _, text = printed([OK, FAIL, OK])
    assert text.splitlines()[:2] == ["ok    disk            room", "fail  token           mode 0644  -> chmod 600 it"]
    assert text.splitlines()[-1] == "doctor: 2 ok, 0 warn, 1 fail"
    _, colored = printed([OK, WARN, FAIL], out=Terminal())
    assert [code in colored for code in ("\x1b[32mok", "\x1b[33mwarn", "\x1b[31mfail")] == [True] * 3
    assert "\x1b" not in text


def test_control_characters_of_a_server_do_not_reach_the_terminal():
    text = format_result(CheckResult("fail", "jobs api", "answer \x1b[2J\r\x07", "look\x00"), with_color=False)
    assert all(char.isprintable() for char in text)


@pytest.mark.parametrize(("results", "code"), [([], 0), ([OK, WARN], 0), ([OK, FAIL, WARN], 1)])
@pytest.mark.parametrize("as_json", [True, False])
def test_only_failures_change_the_exit_code(results, code, as_json):
    assert printed(results, as_json=as_json)[0] == code


def test_json_contains_results_and_counts():
    content = json.loads(printed([OK, FAIL], as_json=True)[1])
    assert content["checks"][1] == {"status": "fail", "name": "token", "message": "mode 0644", "fix": "chmod 600 it"}
    assert content["counts"] == {"ok": 1, "warn": 0, "fail": 1}
