from pathlib import Path

import pytest

from distilray.config.recipe import load_recipe
from distilray.operations.workers import WorkerNeed, worker_need
from distilray.stages import STAGES


@pytest.mark.parametrize(
    ("recipe", "overrides", "need"),
    [
        ("distill/card", [], WorkerNeed(8, 4, 1, 8, "scaling.num_workers")),
        ("distill/card", ["scaling.min_workers=2"], WorkerNeed(8, 4, 1, 2, "scaling.num_workers")),
        ("distill/quickstart", [], WorkerNeed(2, 1, 0, 2, "scaling.num_workers")),
        ("cache_teacher/card", [], WorkerNeed(1, 1, 1.0, 1, "scaling.gpus_per_task")),
        ("evaluate_glue/card", [], WorkerNeed(1, 4, 1, 1, "scaling.num_workers")),
        ("search_glue/grid", [], WorkerNeed(1, 1.0, 0.25, 1, "trial.gpus")),
        ("encode_corpus/card", [], None),
    ],
)
def test_the_need_follows_from_the_recipe(root: Path, recipe, overrides, need):
    config_class = STAGES[recipe.partition("/")[0]].config_class
    assert worker_need(load_recipe(str(root / f"jobs/recipes/{recipe}.yaml"), overrides, config_class)) == need
