"""Rules of the source tree: locations and sizes of files."""

import ast
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

CODE = ("platform", "jobs", "serve", "tuning")
MODULE_LINES = 300
JOB_LINES = 45  # 40, and some margin for docstrings
FUNCTION_LINES = 45
FOLDER_MODULES = 18  # a listing that fits on one screen


def modules_in(files: list[Path], *tops: str) -> list[Path]:
    return [file for file in files if file.suffix == ".py" and file.parts[0] in tops]


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def jobs_in(files: list[Path]) -> list[Path]:
    return [file for file in modules_in(files, "jobs") if file.name != "__init__.py"]


def test_platform_contains_only_distilray(root: Path) -> None:
    # Another package or module could shadow the `platform` module of the standard library or end up in the wheel. This
    # reads the folder and not git, because ignored files have the same effect.
    others = {entry.name for entry in (root / "platform").iterdir()} - {
        "distilray",
        "__pycache__",
        "distilray.egg-info",
    }
    assert not others


def test_platform_is_the_module_of_the_standard_library() -> None:
    spec = importlib.util.find_spec("platform")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == Path(ast.__file__).parent


def test_tests_are_not_a_package(root: Path) -> None:
    assert not list((root / "tests").rglob("__init__.py"))


def test_no_folder_of_tests_is_named_platform(root: Path) -> None:
    assert not [folder for folder in (root / "tests").rglob("platform") if folder.is_dir()]


def test_no_module_has_the_name_of_a_standard_library_module(project_files: list[Path]) -> None:
    # Modules of `distilray` are imported through the package and shadow nothing, so that one exception is acceptable.
    names = {str(file): file.stem for file in modules_in(project_files, *CODE)}
    conflicts = {file for file, name in names.items() if name in sys.stdlib_module_names}
    assert conflicts <= {"platform/distilray/statistics.py"}


def test_no_module_has_an_unspecific_name(project_files: list[Path]) -> None:
    unspecific = {"utils", "util", "helpers", "helper", "common", "misc"}
    names = [part.removesuffix(".py") for file in modules_in(project_files, *CODE) for part in file.parts]
    assert not unspecific & set(names)


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


def test_jobs_are_short(root: Path, project_files: list[Path]) -> None:
    lengths = {str(file): lines_of(root / file) for file in jobs_in(project_files)}
    assert not {file: length for file, length in lengths.items() if length > JOB_LINES}


def test_folders_contain_few_modules(project_files: list[Path]) -> None:
    # `jobs` is exempt because it has one file per stage.
    modules = [file for file in modules_in(project_files, *CODE) if file.name != "__init__.py"]
    folders = Counter(str(file.parent) for file in modules if file.parts[0] != "jobs")
    assert not {folder: count for folder, count in folders.items() if count > FOLDER_MODULES}


def test_every_job_documents_its_command_inputs_and_outputs(root: Path, project_files: list[Path]) -> None:
    missing = []
    for file in jobs_in(project_files):
        text = ast.get_docstring(ast.parse((root / file).read_text(encoding="utf-8"))) or ""
        required = [rf"python -m jobs\.{file.stem}\b", r"\bReads\b", r"\bWrites\b"]
        missing += [f"{file}: {pattern}" for pattern in required if not re.search(pattern, text)]
    assert not missing
