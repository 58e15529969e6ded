"""What the documents name is there: linked files, jobs, recipes, targets."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
JOB = re.compile(r"python -m jobs\.(\w+)")
RECIPE = re.compile(r"jobs/(?:recipes|pipelines)/[\w./-]+\.yaml")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
RULE = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
ANY_JOB = "x"  # stands for a job where a page speaks of all of them


@pytest.fixture(scope="module")
def pages(root: Path) -> dict[Path, str]:
    """The text of every document of the repository."""
    files = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    return {file: file.read_text(encoding="utf-8") for file in sorted(files)}


def relative_links(text: str) -> list[str]:
    """The files that a page links to, without the place inside them; code holds no links."""
    targets = [target for target in LINK.findall(CODE.sub("", text)) if not re.match(r"[a-z]+:|#", target)]
    return [target.partition("#")[0] for target in targets]


def targets_of(text: str) -> list[str]:
    """The targets of make that a page names in its code."""
    return [target for code in CODE.findall(text) for target in TARGET.findall(code)]


def absent(pages: dict[Path, str], named: re.Pattern[str], there: Iterable[str]) -> list[str]:
    """What the pages name by a pattern and is not there, with the page."""
    known = set(there)
    return [f"{file.name}: {name}" for file, text in pages.items() for name in named.findall(text) if name not in known]


def test_the_rules_see_links_and_targets() -> None:
    page = "[a](b.md#c) ![p](d.svg) [w](https://x.org) [h](#top) make sure `make check`\n"
    assert relative_links(page) == ["b.md", "d.svg"]
    assert targets_of(page + "  ```sh\n  make no-such\n  ```\n") == ["check", "no-such"]


def test_there_are_pages(pages: dict[Path, str], root: Path) -> None:
    assert {root / "CHANGELOG.md", root / "docs" / "pipeline.md", root / "docs" / "operations.md"} <= set(pages)


def test_every_link_leads_to_a_file(pages: dict[Path, str]) -> None:
    links = [(file, target) for file, text in pages.items() for target in relative_links(text)]
    assert not [f"{file.name}: {target}" for file, target in links if not (file.parent / target).exists()]


def test_every_job_that_is_named_exists(pages: dict[Path, str], root: Path) -> None:
    jobs = [file.stem for file in (root / "jobs").glob("*.py")]
    assert not absent(pages, JOB, [*jobs, ANY_JOB])


def test_every_recipe_that_is_named_exists(pages: dict[Path, str], root: Path) -> None:
    recipes = [file.relative_to(root).as_posix() for file in (root / "jobs").rglob("*.yaml")]
    assert not absent(pages, RECIPE, recipes)


def test_every_target_that_is_named_exists(pages: dict[Path, str], root: Path) -> None:
    rules = set(RULE.findall((root / "Makefile").read_text(encoding="utf-8")))
    named = [(file, target) for file, text in pages.items() for target in targets_of(text)]
    assert not [f"{file.name}: make {target}" for file, target in named if target not in rules]
