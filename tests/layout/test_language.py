"""Wording of code and docs: docstrings that describe instead of naming, and words with a better synonym."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.layout.source_code import nodes, production_modules

TEXT = (".md", ".yaml", ".j2", ".html")
MAX_RELATIVE_DOCSTRINGS = 20
RELATIVE = re.compile(r"(What|Whether|How|Where|Who|Whose|When|Which|Why|As of|Of|That)\b")
NAMES = ("distilray", "gzip")  # written in lower case, also at the start of a sentence
VARIABLES = {"found", "told", "given", "taken", "ended", "news"}
AVOIDED = re.compile(
    r"\b(stations?|hand(?:s|ed|ing)?[- ]over|goes on|go on|went on|going on|anew|is worth|are worth|is told|are told"
    r"|lies|lie in|in money|for people|ledgers?|laws?|marks|rhythm|once and for all|the line)\b"
)
# Other meanings of these words: (file, word) -> meaning there.
ALLOWED = {
    ("platform/distilray/config/recipe.py", "rhythm"): "old recipe key, for the error that names the new one",
    ("platform/distilray/config/recipe.py", "stations"): "old recipe key, for the error that names the new one",
    ("cluster.local.yaml", "the line"): "a line of a file",
    ("docs/operations.md", "the line"): "a line of a file",
    ("platform/distilray/corpus/sources/bz2_ranges.py", "marks"): "bz2's block and end-of-stream marks",
    ("platform/distilray/corpus/sources/gutenberg.py", "laws"): "quoted from Project Gutenberg's notices",
    ("platform/distilray/corpus/sources/gutenberg.py", "marks"): "line that marks the start of a book",
    ("platform/distilray/corpus/wikitext/templates.yaml", "station"): "name of a Wikipedia template",
    ("platform/distilray/corpus/writing_systems.py", "marks"): "combining marks of Unicode",
    ("platform/distilray/pretraining_data/tokenizer_training.py", "marks"): "combining marks of Unicode",
}
LINE_OF_TEXT = "a line of a text or table"
ALLOWED |= {
    (f"platform/distilray/{file}.py", "the line"): LINE_OF_TEXT
    for file in (
        "corpus/wikitext/extensions",
        "evaluation/fill_mask/examples",
        "finetuning/tsv_files",
        "formats/lines",
        "formats/tables",
        "runtime/environment",
    )
}


def docstrings(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the location (`file:name`) and the text of every docstring of the production code."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for file, node in nodes(root, files):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield f"{file}:{getattr(node, 'name', 'module')}", text


def variables(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the location and the name of every variable and parameter of the production code."""
    for file, node in nodes(root, files):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield f"{file}:{node.lineno}", node.id
        elif isinstance(node, ast.arg):
            yield f"{file}:{node.lineno}", node.arg


def avoided_words(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the file and the word of every use of `AVOIDED` in production code and docs."""
    texts = [file for file in files if file.suffix in TEXT and file.parts[0] not in ("tests", "CHANGELOG.md")]
    for file in (*production_modules(files), *texts):
        for match in AVOIDED.finditer((root / file).read_text(encoding="utf-8")):
            yield str(file), match[0]


def test_docstrings_name_what_they_document(root: Path, project_files: list[Path]) -> None:
    relative = [where for where, text in docstrings(root, project_files) if RELATIVE.match(text)]
    assert len(relative) <= MAX_RELATIVE_DOCSTRINGS, relative


def test_docstrings_are_sentences_or_noun_phrases_with_a_full_stop(root: Path, project_files: list[Path]) -> None:
    assert not [
        where
        for where, text in docstrings(root, project_files)
        if re.match(r"[a-z]+\b", text) and not text.startswith(NAMES)
    ]


def test_variables_are_named_after_their_content(root: Path, project_files: list[Path]) -> None:
    assert not [(where, name) for where, name in variables(root, project_files) if name in VARIABLES]


def test_words_with_a_better_synonym_are_used_in_another_meaning_only(root: Path, project_files: list[Path]) -> None:
    assert set(avoided_words(root, project_files)) == set(ALLOWED)
