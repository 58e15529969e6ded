"""The lock file pins what is installed, and agrees with pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

Lock = dict[str, tuple[Requirement, list[str]]]


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.fixture(scope="module")
def lock(root: Path) -> Lock:
    """Requirement and hashes by package name."""
    text = (root / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    entries: Lock = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pinned, *hashes = line.split("--hash=")
            requirement = Requirement(pinned.strip())
            entries[canonical(requirement.name)] = (requirement, [each.strip() for each in hashes])
    return entries


@pytest.fixture(scope="module")
def declared(root: Path) -> list[Requirement]:
    """Every requirement of pyproject.toml, extras included."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    return [Requirement(text) for text in [*project["dependencies"], *extras]]


def test_every_package_is_pinned_to_one_version(lock: Lock) -> None:
    loose = [name for name, (pin, _) in lock.items() if [each.operator for each in pin.specifier] != ["=="]]
    assert not loose


def test_every_package_but_torch_is_pinned_by_hash(lock: Lock) -> None:
    # torch has CPU and CUDA builds of one version; it is pinned by version.
    without = {name for name, (_, hashes) in lock.items() if not all(each.startswith("sha256:") for each in hashes)}
    without |= {name for name, (_, hashes) in lock.items() if not hashes}
    assert without == {"torch"}


def test_every_requirement_is_in_the_lock(lock: Lock, declared: list[Requirement]) -> None:
    assert {canonical(requirement.name) for requirement in declared} <= set(lock)


def test_the_lock_satisfies_every_bound(lock: Lock, declared: list[Requirement]) -> None:
    pins = {name: next(iter(pin.specifier)).version for name, (pin, _) in lock.items()}
    broken = [str(each) for each in declared if not each.specifier.contains(pins[canonical(each.name)])]
    assert not broken


def test_every_requirement_has_a_lower_bound(declared: list[Requirement]) -> None:
    bounded = {each.name for each in declared if {part.operator for part in each.specifier} & {">=", "=="}}
    assert bounded == {each.name for each in declared}
