"""Recipes and configuration of a small plan."""

from pathlib import Path
from typing import Any

import yaml

from distilray.config.plan import PlanConfig

RECIPES: dict[str, dict[str, Any]] = {
    "encode_corpus": {"run_dir": "-", "corpus_dir": "-", "tokenizer_dir": "-", "dupe_factor": 2},
    "distill": {"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", "epochs": 1.0},
    "evaluate_glue": {"run_dir": "-", "model_dir": "-", "glue_dir": "-"},
    "export_model": {"run_dir": "-", "model_dir": "-", "text_path": "-"},
    "build_corpus": {"run_dir": "-", "sources": [{"path": "-"}]},
}


def write_recipes(folder: Path, **changes: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Write the recipe of every stage; return the `stages` section of a plan."""
    paths = {}
    for name, values in RECIPES.items():
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**values, **changes.get(name, {})}))
        paths[name] = {"path": str(file)}
    return paths


def plan_config(folder: Path, recipes: dict[str, dict[str, Any]] | None = None, **values: Any) -> PlanConfig:
    """Return a plan of all stages on 8 A100.

    Args:
        recipes: changes to the recipe of each stage.
    """
    stages = write_recipes(folder, **(recipes or {}))
    return PlanConfig.model_validate({"run_dir": str(folder / "plan"), "stages": stages, **values})
