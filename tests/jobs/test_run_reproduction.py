import importlib
import json
from pathlib import Path

import pytest

from distilray.config.recipe import load_recipe
from distilray.distillation.ablation import PAPER
from distilray.errors import InputError
from distilray.evaluation.reproduction import ABLATIONS, STAGES, TRIALS, chosen
from distilray.runtime.job import absolute_folders

RECIPES = Path("jobs/recipes/reproduction")
BY_NAME = {stage.name: stage for stage in STAGES}


def config_of(name, recipe=None):
    stage = BY_NAME[name]
    job = importlib.import_module(f"jobs.{stage.job}").JOB
    return load_recipe(str(recipe or RECIPES / f"{stage.job}.yaml"), stage.overrides("data/glue"), job.config_class)


@pytest.fixture
def best(tmp_path):
    """A recipe as a search writes it."""
    settings = {"learning_rate": 1e-4, "epochs": 2, "max_train_examples": 3000}
    values = {
        "run_dir": "x",
        "model_dir": "x",
        "glue_dir": "data/glue",
        "tasks": ["cola", "sst2", "rte"],
        "per_task": {task: dict(settings) for task in ("cola", "sst2", "rte")},
    }
    (tmp_path / "best.yaml").write_text(json.dumps(values))  # which is YAML
    return tmp_path / "best.yaml"


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.recipe is None])
def test_a_stage_changes_nothing_in_its_recipe_that_its_job_does_not_know(name):
    config = config_of(name)
    assert config.run_dir == BY_NAME[name].run_dir


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.recipe is not None])
def test_a_stage_that_uses_what_a_search_has_found_takes_more_of_the_data(name, best):
    config = config_of(name, best)
    cola, sst2 = config.of_task("cola"), config.of_task("sst2")
    assert (cola.learning_rate, cola.max_train_examples, cola.epochs) == (1e-4, None, 3)
    assert sst2.max_train_examples == 6000
    assert len(cola.seeds) >= 2


def test_the_two_models_of_the_claim_are_fine_tuned_with_three_seeds(best):
    for name in ("evaluate_glue-teacher", "evaluate_glue-student"):
        config = config_of(name, best)
        assert all(len(config.of_task(task).seeds) == 3 for task in config.tasks)


@pytest.mark.parametrize("name", [*ABLATIONS, *TRIALS])
def test_a_variant_differs_from_the_student_in_what_its_row_says_alone(name):
    student, variant = (config_of(f"distill-{each}").identity_values() for each in ("student", name))
    changed = {key for key in variant if variant[key] != student[key]}
    said = {change.partition("=")[0].partition(".")[0] for change in {**ABLATIONS, **TRIALS}[name]}
    assert changed == said - {"rhythm"}


def test_the_ablation_is_that_of_the_paper():
    assert set(ABLATIONS) == set(PAPER)


def test_no_two_stages_share_a_name_or_a_folder():
    assert len(BY_NAME) == len({stage.run_dir for stage in STAGES}) == len(STAGES)


def test_every_folder_that_a_stage_reads_is_written_by_an_earlier_one(best):
    written = set()
    for stage in STAGES:
        config = config_of(stage.name, best if stage.recipe else None)
        if stage.recipe:
            assert str(Path(stage.recipe).parent) in written
        read = [value for key, value in absolute_folders(config) if key.endswith("_dir") and key != "run_dir"]
        ours = [Path(value) for value in read if isinstance(value, str) and "runs/reproduction/" in value]
        assert {str(path.relative_to(Path.cwd())) for path in ours} <= written, stage.name
        written.add(stage.run_dir)


def test_the_report_reads_all_other_stages():
    config = config_of("write_report")
    assert {*config.run_paths, *config.optional_paths} == {stage.run_dir for stage in STAGES[:-1]}


def test_stages_are_chosen_by_patterns_in_their_own_order():
    assert [stage.name for stage in chosen("search_glue-*,build_corpus", None)] == [
        "build_corpus",
        "search_glue-teacher",
        "search_glue-student",
    ]
    left = chosen(None, "evaluate_glue-*,distill-no-*")
    assert not [stage for stage in left if stage.name.startswith(("evaluate_glue", "distill-no"))]
    assert len(left) == len(STAGES) - 13


@pytest.mark.parametrize(("only", "skip", "told"), [("distil", None, "no stage"), ("build_corpus", "*", "leave no")])
def test_a_choice_of_nothing_is_refused(only, skip, told):
    with pytest.raises(InputError, match=told):
        chosen(only, skip)
