import sys
from pathlib import Path

import pytest

from distilray.operations.doctor import packages
from distilray.operations.doctor.packages import import_problems
from tests.distilray.operations.doctor.test_findings import INSTALLED, LOCK

PACKAGE = "a_package_of_the_test"


def test_without_a_parser_of_requirements_the_packages_fail(root: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    finding = packages.check_packages(root, INSTALLED.get)
    assert finding.status == "fail"
    assert "make setup" in finding.fix


def test_only_the_pins_of_this_python_and_system_apply():
    expected = {"torch": "2.13.0", "numpy": "2.5.5"} | ({"ray": "2.60.0"} if sys.platform == "linux" else {})
    assert dict(packages.pins_of(LOCK)) == expected


def test_the_lock_file_and_the_bounds_of_this_checkout_can_be_read(root: Path, tmp_path: Path):
    assert dict(packages.pins_of((root / "requirements.lock").read_text()))["ray"] == "2.60.0"
    assert any(each.startswith("torch") for each in packages.requirements_of(root))
    assert packages.checkout_of(root / "platform/distilray/errors.py") == root
    assert packages.checkout_of(tmp_path / "lib/distilray/errors.py") is None


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("raise ImportError('libray.so: undefined symbol')", "fail", "ImportError: libray.so: undefined symbol"),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "fail", "libcudart.so.12"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "fail", "killed by SIGILL"),
        ("import os; os._exit(3)", "fail", "exit code 3"),
        (None, "fail", "its code does not"),
        ("import time; time.sleep(60)", "warn", "more than 0.1 s"),
        ("print('hello')", None, ""),
    ],
)
def test_a_package_that_does_not_load_is_reported_with_the_reason(tmp_path, monkeypatch, code, status, words):
    (tmp_path / PACKAGE).mkdir()
    if code is not None:
        (tmp_path / PACKAGE / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    problem = import_problems([PACKAGE], timeout_s=0.1 if status == "warn" else 60).get(PACKAGE)
    if status is None:
        assert problem is None
        return
    assert problem.status == status
    assert words in problem.message
    assert status == "warn" or "a-package-of-the-test" in problem.fix


def test_a_package_that_is_not_installed_is_no_problem():
    assert import_problems(["no_such_package"]) == {}
