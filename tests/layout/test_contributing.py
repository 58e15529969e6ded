"""Pages and configuration for contributors name only files, make targets and versions that exist."""

import re
import tomllib
from pathlib import Path

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


def test_named_files_are_recognized() -> None:
    text = "`jobs/x.yaml`, `tests/a`, `pyproject.toml`, `make check`, `kinds.py`, `a/b`, jobs/y.yaml"
    assert NAMED_FILE.findall(text) == ["jobs/x.yaml", "tests/a", "pyproject.toml"]


@pytest.mark.parametrize("page", PAGES)
def test_every_named_file_exists(root: Path, page: str) -> None:
    names = NAMED_FILE.findall((root / page).read_text(encoding="utf-8"))
    assert names
    assert not [name for name in names if not (root / name).exists()]


def test_the_workflow_can_only_read_and_runs_the_checks_with_pinned_actions(root: Path) -> None:
    workflow = yaml.safe_load((root / ".github/workflows/check.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = [version for version in PYTHONS if version in SpecifierSet(project["requires-python"])]
    jobs = workflow["jobs"].values()
    steps = [step for job in jobs for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == ["make check", "make test"]
    targets = {target for command in commands for target in TARGET.findall(command)}
    assert targets <= set(RULE.findall((root / "Makefile").read_text(encoding="utf-8")))
    assert [job["strategy"]["matrix"]["python"] for job in jobs] == [supported] * len(jobs)
    assert workflow["permissions"] == {"contents": "read"}
    assert not [job for job in jobs if "permissions" in job]
    assert all(PINNED.fullmatch(step["uses"]) for step in steps if "uses" in step)


def test_the_hooks_have_the_formatter_of_the_lock(root: Path) -> None:
    repositories = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    [version] = [each["rev"] for each in repositories if each["repo"] == RUFF]
    requirement, _ = read_lock(root / "requirements.lock")["ruff"]
    assert str(requirement.specifier) == version.replace("v", "==")
