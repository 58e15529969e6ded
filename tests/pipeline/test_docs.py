"""Files, jobs, recipes, make targets and messages in the documentation exist."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
JOB = re.compile(r"python -m jobs\.(\w+)")
RECIPE = re.compile(r"jobs/(?:recipes|pipelines)/[\w./-]+\.yaml")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
RULE = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
ANY_JOBS = ("x", "JOB")  # placeholders for any job
SYMPTOM = re.compile(r"^\| (?!symptom)([^|]*) \| [^|]* \| [^|]* \|$", re.MULTILINE)
# Symptoms of other programs, whose wording the code does not contain.
FOREIGN = ("Python:", "torch:", "AWS:", "`ray up`:", "the monitor log:", "`serve status`:")


@pytest.fixture(scope="module")
def pages(root: Path) -> dict[Path, str]:
    """Text of all documentation pages."""
    files = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / ".github").rglob("*.md")]
    return {file: file.read_text(encoding="utf-8") for file in sorted(files)}


def relative_links(text: str) -> list[str]:
    """Return the files that a page links to, without fragments; ignores code."""
    targets = [target for target in LINK.findall(CODE.sub("", text)) if not re.match(r"[a-z]+:|#", target)]
    return [target.partition("#")[0] for target in targets]


def linked_headings(file: Path, text: str) -> list[tuple[Path, str]]:
    """Return the pages and fragments that a page links to; ignores code."""
    links = [target.partition("#") for target in LINK.findall(CODE.sub("", text)) if not re.match(r"[a-z]+:", target)]
    return [((file.parent / page).resolve() if page else file, name) for page, _, name in links if name]


def fragments(text: str) -> set[str]:
    """Return the fragments of the headings of a page, as on GitHub."""
    headings = HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets_of(text: str) -> list[str]:
    """Return the make targets in the code of a page."""
    return [target for code in CODE.findall(text) for target in TARGET.findall(code)]


def test_links_and_targets_are_recognized() -> None:
    page = "[a](b.md#c) ![p](d.svg) [w](https://x.org) [h](#top) make sure `make check`\n"
    assert relative_links(page) == ["b.md", "d.svg"]
    assert targets_of(page + "  ```sh\n  make no-such\n  ```\n") == ["check", "no-such"]


def test_the_documentation_has_pages(pages: dict[Path, str], root: Path) -> None:
    assert {root / "CHANGELOG.md", root / "docs" / "pipeline.md", root / "docs" / "operations.md"} <= set(pages)


def test_every_linked_file_exists(pages: dict[Path, str]) -> None:
    links = [(file, target) for file, text in pages.items() for target in relative_links(text)]
    assert not [f"{file.name}: {target}" for file, target in links if not (file.parent / target).exists()]


def test_every_linked_heading_exists(pages: dict[Path, str]) -> None:
    links = [(file, *link) for file, text in pages.items() for link in linked_headings(file, text)]
    assert len(links) > 20
    assert not [f"{file.name}: {page.name}#{name}" for file, page, name in links if name not in fragments(pages[page])]


@pytest.mark.parametrize("kind", ["jobs", "recipes", "make targets"])
def test_everything_that_a_page_names_exists(kind: str, pages: dict[Path, str], root: Path) -> None:
    find: Callable[[str], list[str]]
    if kind == "jobs":
        find, existing = JOB.findall, {*ANY_JOBS, *(file.stem for file in (root / "jobs").glob("*.py"))}
    elif kind == "recipes":
        find, existing = RECIPE.findall, {file.relative_to(root).as_posix() for file in (root / "jobs").rglob("*.yaml")}
    else:
        find, existing = targets_of, set(RULE.findall((root / "Makefile").read_text(encoding="utf-8")))
    assert not [f"{file.name}: {name}" for file, text in pages.items() for name in find(text) if name not in existing]


def source_text(root: Path) -> str:
    """Return the text of the files that print messages, with string literals of several lines joined."""
    modules = [file for folder in ("platform", "serve") for file in (root / folder).rglob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in (*modules, root / "Makefile", root / "cluster.yaml")]
    return re.sub(r'"\n\s*f?"', "", "\n".join(texts))


def test_the_code_contains_every_message_that_troubleshooting_explains(pages: dict[Path, str], root: Path) -> None:
    symptoms = SYMPTOM.findall(pages[root / "docs" / "troubleshooting.md"])
    messages = [text for cell in symptoms if not cell.startswith(FOREIGN) for text in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 40
    source = source_text(root)
    assert not [text for text in messages if not all(part in source for part in text.split("..."))]
