import sys
from pathlib import Path

import pytest

from distilray.operations.doctor import packages
from distilray.operations.doctor.packages import import_problems

LOCK = """# pinned
torch==2.13.0
ray[serve]==2.60.0 ; sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.5.5 ; python_version >= '3.0' \\
    --hash=sha256:cc
numpy==1.0.0 ; python_version < '3.0' \\
    --hash=sha256:dd
"""
THERE = {"torch": "2.13.0+cpu", "ray": "2.60.0", "numpy": "2.5.5"}


@pytest.mark.parametrize(("version", "status"), [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((4, 0, 0), "ok")])
def test_python_3_11_or_newer_is_required(version, status):
    assert packages.check_python(version).status == status


@pytest.mark.parametrize(("version", "status"), [((2, 4, 0), "fail"), ((2, 4, 1), "ok"), ((2, 5, 0), "ok")])
def test_an_expat_without_expansion_limit_fails(version, status):
    assert packages.check_expat(version).status == status


def test_a_package_that_is_absent_or_too_old_fails_with_the_command():
    needed = ["ray[data,serve]>=2.60,<3", "torch>=2.11", "scipy>=1.16"]
    finding = packages.check_bounds(needed, {"ray": "2.59.1", "torch": "2.13.0+cpu"}.get)
    assert finding.status == "fail"
    assert "ray 2.59.1, but <3,>=2.60 is required" in finding.message
    assert "scipy is not installed" in finding.message
    assert "torch" not in finding.message
    assert "pip install 'ray<3,>=2.60'" in finding.fix
    assert packages.check_bounds(needed, {**THERE, "scipy": "1.18"}.get).status == "ok"


def test_without_a_parser_of_requirements_the_packages_fail(root: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    finding = packages.check_packages(root, THERE.get)
    assert (finding.status, "make setup" in finding.fix) == ("fail", True)


def test_the_pins_are_those_of_this_python_and_system():
    pins = dict(packages.pins_of(LOCK))
    assert pins["numpy"] == "2.5.5"
    assert pins["torch"] == "2.13.0"
    assert ("ray" in pins) == (sys.platform == "linux")


def test_another_version_than_in_the_lock_file_is_a_warning_with_the_command():
    assert packages.check_lock(LOCK, THERE.get).status == "ok"
    finding = packages.check_lock(LOCK, {**THERE, "numpy": "2.4.0"}.get)
    assert (finding.status, finding.message.count("tested")) == ("warn", 1)
    assert "numpy 2.4.0 (tested: 2.5.5)" in finding.message
    assert "pip install numpy==2.5.5" in finding.fix


def test_a_missing_package_is_not_reported_as_different():
    assert packages.check_lock(LOCK, {"ray": "2.60.0"}.get).status == "ok"


def test_many_differences_are_counted_and_not_listed():
    lock = "".join(f"p{number}==2\n" for number in range(20))
    finding = packages.check_lock(lock, lambda _: "1")
    assert "and 14 more" in finding.message
    assert finding.fix == "make setup"


def test_the_lock_file_and_the_bounds_of_this_checkout_can_be_read(root: Path):
    assert dict(packages.pins_of((root / "requirements.lock").read_text()))["ray"] == "2.60.0"
    needed = packages.requirements_of(root)
    assert any(each.startswith("torch") for each in needed)
    assert packages.checkout_of(root / "platform/distilray/errors.py") == root


def test_an_installed_package_has_no_checkout(tmp_path: Path):
    assert packages.checkout_of(tmp_path / "lib/distilray/errors.py") is None


def test_code_from_elsewhere_than_the_checkout_fails(tmp_path: Path):
    finding = packages.check_shadow(Path("/lib/distilray"), tmp_path)
    assert (finding.status, "pip uninstall distilray" in finding.fix) == ("fail", True)
    assert packages.check_shadow(tmp_path / "platform/distilray", tmp_path).status == "ok"
    assert packages.check_shadow(Path("/lib/distilray"), None).status == "ok"


PACKAGE = "a_package_of_the_test"


def problem(tmp_path, monkeypatch, code: str | None, **options):
    """Return the finding for a package with this code, or for an empty folder."""
    (tmp_path / PACKAGE).mkdir()
    if code is not None:
        (tmp_path / PACKAGE / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return import_problems([PACKAGE], **options).get(PACKAGE)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libray.so: undefined symbol')", "libray.so: undefined symbol"),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("import os; os._exit(3)", "exit code 3"),
        (None, "its code does not"),
    ],
)
def test_a_package_that_does_not_load_fails_with_the_reason(tmp_path, monkeypatch, code, words):
    finding = problem(tmp_path, monkeypatch, code)
    assert (finding.status, words in finding.message) == ("fail", True)
    assert "a-package-of-the-test" in finding.fix


def test_a_package_that_loads_slowly_is_a_warning(tmp_path, monkeypatch):
    finding = problem(tmp_path, monkeypatch, "import time; time.sleep(60)", timeout_s=0.1)
    assert (finding.status, "more than 0.1 s" in finding.message) == ("warn", True)


def test_a_package_that_loads_or_is_not_installed_is_no_problem(tmp_path, monkeypatch):
    assert problem(tmp_path, monkeypatch, "print('hello')") is None
    assert import_problems(["no_such_package"]) == {}
