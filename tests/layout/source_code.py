"""Parsed modules of the production code, shared by the rules of the source tree."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

CODE = ("platform", "jobs", "serve", "tuning")


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def production_modules(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix == ".py" and file.parts[0] in CODE]


def nodes(root: Path, files: list[Path]) -> Iterator[tuple[Path, ast.AST]]:
    """Yield every syntax node of the production code with its file."""
    for file in production_modules(files):
        for node in ast.walk(parse(root / file)):
            yield file, node
