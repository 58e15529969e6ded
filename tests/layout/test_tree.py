"""Laws of the tree: where a file may lie, and how large it may be."""

import ast
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

CODE = ("platform", "jobs", "serve", "tuning")
MODULE_LINES = 300
JOB_LINES = 45  # 40, and a little room for the lines of the docstring
FUNCTION_LINES = 45
FOLDER_MODULES = 18  # a listing that fits on one screen


def modules_in(files: list[Path], *tops: str) -> list[Path]:
    return [file for file in files if file.suffix == ".py" and file.parts[0] in tops]


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def jobs_in(files: list[Path]) -> list[Path]:
    return [file for file in modules_in(files, "jobs") if file.name != "__init__.py"]


def test_nothing_but_distilray_lies_in_platform(root: Path) -> None:
    # A package or module there would shadow the `platform` of the standard library, or travel into the wheel. The
    # folder itself is read, not git: an ignored file shadows just as well.
    beside = {entry.name for entry in (root / "platform").iterdir()} - {
        "distilray",
        "__pycache__",
        "distilray.egg-info",
    }
    assert not beside


def test_platform_stays_the_module_of_the_standard_library() -> None:
    spec = importlib.util.find_spec("platform")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == Path(ast.__file__).parent


def test_tests_are_no_package(root: Path) -> None:
    assert not list((root / "tests").rglob("__init__.py"))


def test_no_folder_of_tests_is_named_platform(root: Path) -> None:
    assert not [folder for folder in (root / "tests").rglob("platform") if folder.is_dir()]


def test_no_module_is_named_like_one_of_the_standard_library(project_files: list[Path]) -> None:
    # `distilray` is only on the path as a package, so that its own modules shadow nothing; one name is worth it.
    names = {str(file): file.stem for file in modules_in(project_files, *CODE)}
    alike = {file for file, name in names.items() if name in sys.stdlib_module_names}
    assert alike <= {"platform/distilray/statistics.py"}


def test_no_module_is_a_drawer_for_everything(project_files: list[Path]) -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    names = [part.removesuffix(".py") for file in modules_in(project_files, *CODE) for part in file.parts]
    assert not drawers & set(names)


def test_modules_are_short(root: Path, project_files: list[Path]) -> None:
    lengths = {str(file): lines_of(root / file) for file in modules_in(project_files, *CODE)}
    assert not {file: length for file, length in lengths.items() if length > MODULE_LINES}


def test_functions_are_short(root: Path, project_files: list[Path]) -> None:
    too_long = {}
    for file in modules_in(project_files, *CODE):
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    too_long[f"{file}:{node.name}"] = lines
    assert not too_long


def test_jobs_are_shorter(root: Path, project_files: list[Path]) -> None:
    lengths = {str(file): lines_of(root / file) for file in jobs_in(project_files)}
    assert not {file: length for file, length in lengths.items() if length > JOB_LINES}


def test_folders_hold_few_modules(project_files: list[Path]) -> None:
    # `jobs` has one file per verb of the line and grows with it.
    modules = [file for file in modules_in(project_files, *CODE) if file.name != "__init__.py"]
    folders = Counter(str(file.parent) for file in modules if file.parts[0] != "jobs")
    assert not {folder: count for folder, count in folders.items() if count > FOLDER_MODULES}


def test_every_job_says_its_command_what_it_reads_and_what_it_writes(root: Path, project_files: list[Path]) -> None:
    silent = []
    for file in jobs_in(project_files):
        text = ast.get_docstring(ast.parse((root / file).read_text(encoding="utf-8"))) or ""
        wanted = [rf"python -m jobs\.{file.stem}\b", r"\bReads\b", r"\bWrites\b"]
        silent += [f"{file}: {pattern}" for pattern in wanted if not re.search(pattern, text)]
    assert not silent
