"""`benchmarks/gpu.sh` in environments that contain only what it states."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.layout.source_code import parse

PROVIDED = ("torch", "transformers")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def script_packages(root: Path) -> set[str]:
    """Return the packages that the script states in addition to torch and transformers."""
    text = (root / "benchmarks/gpu.sh").read_text(encoding="utf-8")
    match = re.search(r"^packages=\(([^)]*)\)", text, re.MULTILINE)
    assert match is not None
    return set(match[1].split())


def with_requirements(names: Iterable[str]) -> set[str]:
    """Return packages and everything that they require, without extras."""
    complete: set[str] = set()
    pending = list(names)
    while pending:
        name = canonical(pending.pop())
        if name not in complete:
            complete.add(name)
            requirements = map(Requirement, importlib.metadata.distribution(name).requires or [])
            pending += [
                each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return complete


def top_level_files(name: str) -> dict[str, Path]:
    """Return the files and folders of an installed package in the site folder."""
    files = importlib.metadata.distribution(name).files or []
    names = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
    return {each: Path(str(importlib.metadata.distribution(name).locate_file(each))) for each in names}


def create_environment(folder: Path, packages: Iterable[str]) -> Path:
    """Create a virtual environment with links to installed packages, and return its interpreter."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for package in packages:
        for name, path in top_level_files(package).items():
            if not (site / name).exists():
                (site / name).symlink_to(path)
    return folder / "bin/python"


def write_wheel(name: str, folder: Path) -> None:
    """Pack an installed package of pure Python again."""
    folder.mkdir()
    distribution = importlib.metadata.distribution(name)
    file = folder / f"{name.replace('-', '_')}-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for path in distribution.files or []:
            if path.suffix != ".pyc" and path.name not in ("INSTALLER", "REQUESTED"):
                wheel.write(str(path.locate()), str(path))


def run(root: Path, python: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "benchmarks/gpu.sh"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHON": str(python), **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def imported_packages(root: Path, start: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the packages outside the repository that modules import when they are imported, with the importing file."""
    pending, visited = list(start), set()
    while pending:
        file = pending.pop()
        if file in visited:
            continue
        visited.add(file)
        for name in module_imports(file):
            folders = [folder for folder in (root, root / "platform") if (folder / name.partition(".")[0]).is_dir()]
            if not folders:
                yield name.partition(".")[0], file
                continue
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                path = folders[0].joinpath(*parts[:length])
                pending += [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]


def module_imports(file: Path) -> Iterator[str]:
    """Yield the names that a module imports at its top level; `from a import b` yields `a.b`."""
    for node in parse(file).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_benchmark_imports_only_the_stated_packages(root: Path) -> None:
    packages = with_requirements([*PROVIDED, *script_packages(root)])
    stated = {file.partition(".")[0] for package in packages for file in top_level_files(package)}
    imported = dict(imported_packages(root, [*root.glob("benchmarks/gpu/*.py"), root / "benchmarks/traced_step.py"]))
    third_party = {name: file for name, file in imported.items() if name not in sys.stdlib_module_names}
    assert {"torch", "pydantic", "pyarrow", "yaml"} <= third_party.keys()
    assert "ray" not in third_party
    assert not {name: str(file) for name, file in third_party.items() if name not in stated}


def test_the_stated_packages_complete_their_own_requirements(root: Path) -> None:
    # The wheels are installed without their requirements.
    provided = with_requirements(PROVIDED)
    assert with_requirements(script_packages(root)) <= provided | script_packages(root)


def test_help_needs_no_package(root: Path, tmp_path: Path) -> None:
    result = run(root, create_environment(tmp_path / "empty", []), "--help")
    assert result.returncode == 0, result.stderr
    assert "--minutes" in result.stdout


def test_missing_packages_are_named(root: Path, tmp_path: Path) -> None:
    result = run(root, create_environment(tmp_path / "some", ["rich", "pygments", "markdown-it-py", "mdurl"]))
    assert result.returncode == 2
    assert "torch transformers annotated-types pyarrow pydantic" in result.stderr
    assert "rich" not in result.stderr
    assert "WHEELS" in result.stderr


@pytest.mark.slow
def test_everything_runs_on_a_cpu_with_only_the_stated_packages(root: Path, tmp_path: Path) -> None:
    from benchmarks.gpu.cells import cells

    carried = "annotated-types"
    stated = with_requirements([*PROVIDED, *script_packages(root)]) - {carried}
    python = create_environment(tmp_path / "environment", [*stated, "pip"])
    write_wheel(carried, tmp_path / "wheels")
    file = tmp_path / "results.json"
    arguments = ["--device", "cpu", "--size", "tiny", "--minutes", "10", "--json", str(file)]
    result = run(root, python, *arguments, WHEELS=str(tmp_path / "wheels"), TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    records = json.loads(file.read_text())["results"]
    assert [record["cell"] for record in records] == [cell.name for cell in cells("tiny")]
    assert {record["status"] for record in records} == {"ok"}
    assert all(record["tokens_per_s"] > 0 for record in records if record["kind"] in ("step", "ddp", "training"))
    assert all(record["cell"] in result.stdout for record in records)
