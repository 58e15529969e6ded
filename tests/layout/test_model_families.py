"""Classes, module paths and configuration keys of model families appear only in `models/architectures.py`."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilray.models.architectures import ARCHITECTURES
from tests.layout.source_code import parse, production_modules

RECORDS = Path("platform/distilray/models/architectures.py")
OWN_KEYS = {"hidden_dim"}  # also used in our recipes


@functools.cache
def family_terms() -> set[str]:
    """Return names that are specific to a family, without common words such as `activation`."""
    terms = {"model_type"}
    for family in ARCHITECTURES.values():
        names = {*family.layer, *family.head, *family.config_keys.values(), family.embeddings, family.layers}
        parts = {part for name in names for part in name.split(".")}
        terms |= {family.name, family.masked_lm, family.classifier, family.config}
        terms |= {name for name in names | parts if "." in name or "_" in name} - OWN_KEYS
    return terms


def is_family_specific(text: str) -> bool:
    """Return whether a text is a term or starts with a term and a dot."""
    return any(text[:end] in family_terms() for end in (len(text), *(dot.start() for dot in re.finditer(r"\.", text))))


def family_names(tree: ast.Module) -> Iterator[str]:
    """Yield family-specific terms in the code of a module, except comments and docstrings, as `line: term`."""
    for node in ast.walk(tree):
        texts: list[str] = []
        if isinstance(node, ast.Attribute):
            texts = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            texts = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts = [node.value]
        yield from (f"{getattr(node, 'lineno', 0)}: {text}" for text in texts if is_family_specific(text))


@pytest.mark.parametrize(
    "source",
    [
        "config.model_type == kind",
        "settings.get('model_type')",
        "names['distilbert']",
        "from transformers import BertForMaskedLM",
        "transformers.BertConfig()",
        "model.vocab_transform",
        "state['cls.predictions.decoder.weight']",
        "model.get_submodule('bert.encoder.layer')",
        "layer.attention.q_lin",
        "config.n_layers",
    ],
)
def test_family_specific_terms_are_detected(source: str) -> None:
    assert list(family_names(ast.parse(source)))


def test_no_other_module_contains_family_specific_terms(root: Path, project_files: list[Path]) -> None:
    modules = [file for file in production_modules(project_files) if file != RECORDS]
    assert not [f"{file}:{term}" for file in modules for term in family_names(parse(root / file))]
