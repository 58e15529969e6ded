"""Checks on the wording of code and docs: docstrings that describe instead of naming, and words with a better synonym.

`python -m tests.layout.test_language` lists the uses that are allowed, each with its reason.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CODE = ("platform", "jobs", "serve", "tuning")
TEXT = (".md", ".yaml", ".j2", ".html")
MAX_RELATIVE_DOCSTRINGS = 20
RELATIVE = re.compile(r"(What|Whether|How|Where|Who|Whose|When|Which|Why|As of|Of|That)\b")
VARIABLES = {"found", "told", "given", "taken", "ended", "news"}
AVOIDED = re.compile(
    r"\b(stations?|hand(?:s|ed|ing)?[- ]over|goes on|go on|went on|going on|anew|is worth|are worth|is told|are told"
    r"|lies|lie in|in money|for people|ledgers?|laws?|marks|rhythm|at once and|once and for all|such as lie"
    r"|look[s]? around|the line)\b"
)
ALLOWED: dict[str, str] = {}


def docstrings(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the place (`file:name`) and the text of every docstring of the production code."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for file in files:
        if file.suffix == ".py" and file.parts[0] in CODE:
            for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
                if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                    yield f"{file}:{getattr(node, 'name', 'module')}", text


def variables(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of every variable and parameter of the production code."""
    for file in files:
        if file.suffix == ".py" and file.parts[0] in CODE:
            for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield f"{file}:{node.lineno}", node.id
                elif isinstance(node, ast.arg):
                    yield f"{file}:{node.lineno}", node.arg


def avoided_words(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the place and the word of every use of `AVOIDED` in production code and docs."""
    for file in files:
        is_code = file.suffix == ".py" and file.parts[0] in CODE
        is_text = file.suffix in TEXT and file.parts[0] not in ("tests", "CHANGELOG.md")
        if is_code or is_text:
            for number, line in enumerate((root / file).read_text(encoding="utf-8").splitlines(), 1):
                for match in AVOIDED.finditer(line):
                    yield f"{file}:{number}", match[0]


def test_docstrings_name_what_they_document(root: Path, project_files: list[Path]) -> None:
    relative = [where for where, text in docstrings(root, project_files) if RELATIVE.match(text)]
    assert len(relative) <= MAX_RELATIVE_DOCSTRINGS, relative


def test_docstrings_are_sentences_or_noun_phrases_with_a_full_stop(root: Path, project_files: list[Path]) -> None:
    assert not [where for where, text in docstrings(root, project_files) if not re.match(r"[^a-z]", text)]


def test_variables_are_named_after_their_content(root: Path, project_files: list[Path]) -> None:
    assert not [(where, name) for where, name in variables(root, project_files) if name in VARIABLES]
