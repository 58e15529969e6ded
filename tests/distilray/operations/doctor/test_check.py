import threading
import time

import pytest

from distilray.errors import InputError
from distilray.operations.doctor.check import Check, Finding, Row, any_hangs, examine, fail, ok, together, warn


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
