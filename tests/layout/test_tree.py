"""Rules of the source tree: locations and sizes of files."""

import ast
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.layout.source_code import nodes, parse, production_modules

MODULE_LINES = 300
JOB_LINES = 45  # 40, and some margin for docstrings
FUNCTION_LINES = 45
FOLDER_MODULES = 18  # a listing that fits on one screen
UNSPECIFIC = {"utils", "util", "helpers", "helper", "common", "misc"}


def jobs_in(files: list[Path]) -> list[Path]:
    return [file for file in production_modules(files) if file.parts[0] == "jobs" and file.name != "__init__.py"]


def test_nothing_shadows_the_platform_module_of_the_standard_library(root: Path) -> None:
    # Other packages or modules in platform/ could shadow it or end up in the wheel. This reads the folder and not git,
    # because ignored files have the same effect.
    entries = {entry.name for entry in (root / "platform").iterdir()}
    assert entries - {"__pycache__", "distilray.egg-info"} == {"distilray"}
    assert not [folder for folder in (root / "tests").rglob("platform") if folder.is_dir()]
    spec = importlib.util.find_spec("platform")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == Path(ast.__file__).parent


def test_tests_are_not_a_package(root: Path) -> None:
    assert not list((root / "tests").rglob("__init__.py"))


def test_modules_have_specific_names_that_the_standard_library_does_not_use(project_files: list[Path]) -> None:
    # Modules of `distilray` are imported through the package and shadow nothing, so that one exception is acceptable.
    files = production_modules(project_files)
    conflicts = {str(file) for file in files if file.stem in sys.stdlib_module_names}
    assert conflicts <= {"platform/distilray/statistics.py"}
    assert not UNSPECIFIC & {part.removesuffix(".py") for file in files for part in file.parts}


@pytest.mark.parametrize(("select", "limit"), [(production_modules, MODULE_LINES), (jobs_in, JOB_LINES)])
def test_modules_and_jobs_are_short(root: Path, project_files: list[Path], select, limit: int) -> None:
    lengths = {str(file): len((root / file).read_text(encoding="utf-8").splitlines()) for file in select(project_files)}
    assert lengths
    assert not {file: length for file, length in lengths.items() if length > limit}


def test_functions_are_short(root: Path, project_files: list[Path]) -> None:
    lengths = {
        f"{file}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file, node in nodes(root, project_files)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}


def test_folders_contain_few_modules(project_files: list[Path]) -> None:
    # `jobs` is exempt because it has one file per stage.
    modules = [file for file in production_modules(project_files) if file.name != "__init__.py"]
    folders = Counter(str(file.parent) for file in modules if file.parts[0] != "jobs")
    assert not {folder: count for folder, count in folders.items() if count > FOLDER_MODULES}


def test_every_job_documents_its_command_inputs_and_outputs(root: Path, project_files: list[Path]) -> None:
    missing = []
    for file in jobs_in(project_files):
        text = ast.get_docstring(parse(root / file)) or ""
        required = [rf"python -m jobs\.{file.stem}\b", r"\bReads\b", r"\bWrites\b"]
        missing += [f"{file}: {pattern}" for pattern in required if not re.search(pattern, text)]
    assert not missing
