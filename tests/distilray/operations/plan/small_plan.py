"""A plan whose every amount is known: recipes as files, text of a thousand words."""

from pathlib import Path
from typing import Any

import yaml

from distilray.config.capacity import PlanConfig

RECIPES: dict[str, dict[str, Any]] = {
    "encode_corpus": {"run_dir": "-", "corpus_dir": "-", "tokenizer_dir": "-", "dupe_factor": 2},
    "distill": {"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", "epochs": 1.0},
    "evaluate_glue": {"run_dir": "-", "model_dir": "-", "glue_dir": "-"},
    "export_model": {"run_dir": "-", "model_dir": "-", "text_path": "-"},
    "build_corpus": {"run_dir": "-", "sources": [{"path": "-"}]},
}


def write_recipes(folder: Path, **changes: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The recipes of the stations as files: what `stations` of a plan says."""
    found = {}
    for name, values in RECIPES.items():
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**values, **changes.get(name, {})}))
        found[name] = {"path": str(file)}
    return found


def plan_config(folder: Path, recipes: dict[str, dict[str, Any]] | None = None, **values: Any) -> PlanConfig:
    """A plan of all stations on 8 A100.

    Args:
        recipes: what differs in the recipe of a station.
    """
    stages = write_recipes(folder, **(recipes or {}))
    return PlanConfig.model_validate({"run_dir": str(folder / "plan"), "stages": stages, **values})
