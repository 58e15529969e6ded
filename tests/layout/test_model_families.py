"""Classes, module paths and configuration keys of model families appear only in `models/architectures.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilray.models.architectures import ARCHITECTURES

RECORDS = Path("platform/distilray/models/architectures.py")
CODE = ("platform", "jobs", "serve", "tuning")
OWN_KEYS = {"hidden_dim"}  # also used in our recipes


def family_terms() -> set[str]:
    """Return names that are specific to a family, without common words such as `activation`."""
    terms = {"model_type"}
    for family in ARCHITECTURES.values():
        names = {*family.layer, *family.head, *family.config_keys.values(), family.embeddings, family.layers}
        parts = {part for name in names for part in name.split(".")}
        terms |= {family.name, family.masked_lm, family.classifier, family.config}
        terms |= {name for name in names | parts if "." in name or "_" in name} - OWN_KEYS
    return terms


def family_names(source: str) -> Iterator[str]:
    """Yield family-specific terms in the code of a module, except comments and docstrings, as `line: term`."""
    terms = family_terms()
    for node in ast.walk(ast.parse(source)):
        text = ""
        if isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.ImportFrom):
            text = next((alias.name for alias in node.names if alias.name in terms), "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if text in terms or any(text.startswith(f"{term}.") for term in terms):
            yield f"{getattr(node, 'lineno', 0)}: {text}"


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
def test_the_rule_can_fail(source: str) -> None:
    assert list(family_names(source))


def test_no_other_module_contains_family_specific_terms(root: Path, project_files: list[Path]) -> None:
    modules = [file for file in project_files if file.suffix == ".py" and file.parts[0] in CODE and file != RECORDS]
    terms = [f"{file}:{term}" for file in modules for term in family_names((root / file).read_text(encoding="utf-8"))]
    assert not terms
