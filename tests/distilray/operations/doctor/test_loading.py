import pytest

from distilray.operations.doctor.loading import import_problems

PACKAGE = "a_package_of_the_test"


def problem(tmp_path, monkeypatch, code: str | None, **options):
    """The finding for a package with this code; without code for a folder that holds none."""
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
        (None, "its code is not"),
    ],
)
def test_a_package_that_does_not_load_fails_with_the_reason(tmp_path, monkeypatch, code, words):
    found = problem(tmp_path, monkeypatch, code)
    assert (found.status, words in found.found) == ("fail", True)
    assert "a-package-of-the-test" in found.fix


def test_a_package_that_loads_slowly_is_a_warning(tmp_path, monkeypatch):
    found = problem(tmp_path, monkeypatch, "import time; time.sleep(60)", timeout_s=0.1)
    assert (found.status, "within 0.1 s" in found.found) == ("warn", True)


def test_a_package_that_loads_or_is_not_installed_is_no_problem(tmp_path, monkeypatch):
    assert problem(tmp_path, monkeypatch, "print('hello')") is None
    assert import_problems(["no_such_package"]) == {}
