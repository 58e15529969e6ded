"""Pages and configuration for contributors name only files, make targets and versions that exist."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.layout.test_lock import read_lock
from tests.pipeline.test_docs import RULE, TARGET

PAGES = ("CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md")
NAMED_FILE = re.compile(
    r"`((?:platform|jobs|serve|tuning|tests|docs|benchmarks|\.github)/[\w./-]+|[\w-]+\.(?:md|toml|yaml|lock))`"
)
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
RUFF = "https://github.com/astral-sh/ruff-pre-commit"


@pytest.fixture(scope="module")
def jobs(root: Path) -> dict[str, Any]:
    """Jobs of the workflow by name."""
    return workflow(root)["jobs"]


def workflow(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / ".github/workflows/check.yml").read_text(encoding="utf-8"))


def steps(jobs: dict[str, Any], key: str) -> Iterator[str]:
    return (step[key] for job in jobs.values() for step in job["steps"] if key in step)


def test_named_files_are_recognized() -> None:
    text = "`jobs/x.yaml`, `tests/a`, `pyproject.toml`, `make check`, `kinds.py`, `a/b`, jobs/y.yaml"
    assert NAMED_FILE.findall(text) == ["jobs/x.yaml", "tests/a", "pyproject.toml"]


@pytest.mark.parametrize("page", PAGES)
def test_every_named_file_exists(root: Path, page: str) -> None:
    names = NAMED_FILE.findall((root / page).read_text(encoding="utf-8"))
    assert names
    assert not [name for name in names if not (root / name).exists()]


def test_the_workflow_runs_existing_targets(root: Path, jobs: dict[str, Any]) -> None:
    commands = list(steps(jobs, "run"))
    assert commands == ["make check", "make test"]
    targets = {target for command in commands for target in TARGET.findall(command)}
    assert targets <= set(RULE.findall((root / "Makefile").read_text(encoding="utf-8")))


def test_the_workflow_runs_on_supported_versions_from_the_oldest(root: Path, jobs: dict[str, Any]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = [version for version in PYTHONS if version in SpecifierSet(project["requires-python"])]
    assert [job["strategy"]["matrix"]["python"] for job in jobs.values()] == [supported] * len(jobs)


def test_the_workflow_can_only_read(root: Path, jobs: dict[str, Any]) -> None:
    assert workflow(root)["permissions"] == {"contents": "read"}
    assert not [name for name, job in jobs.items() if "permissions" in job]


def test_the_actions_of_the_workflow_are_pinned_by_commit(jobs: dict[str, Any]) -> None:
    assert all(PINNED.fullmatch(action) for action in steps(jobs, "uses"))


def test_the_hooks_have_the_formatter_of_the_lock(root: Path) -> None:
    repositories = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    [version] = [each["rev"] for each in repositories if each["repo"] == RUFF]
    requirement, _ = read_lock(root / "requirements.lock")["ruff"]
    assert str(requirement.specifier) == version.replace("v", "==")
