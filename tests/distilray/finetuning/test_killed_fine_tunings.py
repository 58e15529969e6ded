"""Fine-tuning runs killed before any change of the disk: they end with the same result, and none is trained twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from distilray.config.glue import FineTuneScaling, TaskDistillationConfig
from distilray.errors import InputError
from distilray.finetuning import fine_tune as module
from distilray.finetuning.fine_tune_run import FineTunePlan, FineTuneRun, is_done, read_predictions, read_result
from tests.distilray.interruptions import KilledError, at_each_folder, killed_at_change
from tests.tiny.tasks import features, settings

SCALING = FineTuneScaling(num_workers=1, use_gpu=False, cpus_per_worker=1)
SETTINGS = settings(epochs=2, batch_size=4)


@pytest.fixture(scope="module")
def rows(bert_dir):
    return {"cola": features("cola", bert_dir, train=4, dev=4, test=3, changes=SETTINGS)}


@pytest.fixture
def unit(bert_dir):
    return FineTuneRun("cola", 1, SETTINGS, bert_dir)


@pytest.fixture
def trained(monkeypatch):
    """Seeds that are fine-tuned, in order. Ray is replaced."""
    seeds, execute_run = [], module.execute_run

    def fit(plan, unit, *arguments, **options):
        seeds.append(unit.seed)
        execute_run(plan, unit, *arguments, **options)

    monkeypatch.setattr(module, "execute_run", fit)
    monkeypatch.setattr(module, "run_on_workers", lambda loop, *_, **__: loop())
    monkeypatch.setattr(module, "ensure_capacity", lambda *_, **__: 1)
    for name in ("put", "get"):
        monkeypatch.setattr(module.ray, name, lambda value: value)
    return seeds


@pytest.fixture
def run(trained, rows):
    """Execute runs, and return the content of their results."""

    def of(folder, *units):
        results = module.execute_runs(units, rows, plan_of(folder), run_dir=str(folder), job="evaluate_glue")
        return [content(results[unit.task, unit.seed]) for unit in units]

    return of


def plan_of(folder, **changes):
    return FineTunePlan(
        **{"folder": str(folder), "precision": "fp32", "scaling": SCALING, "with_test": True, **changes}
    )


def content(result):
    """Return the result of a run without times."""
    folder = Path(result.folder)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    weights = Path(result.model_dir, "model.safetensors").read_bytes()
    evaluations = [replace(each, seconds=0.0) for each in result.fine_tuned.evaluations]
    predicted = {name: values.tolist() for name, values in read_predictions(result).items()}
    assert {name: len(values) for name, values in predicted.items()} == {"test": 3}
    kept = [name for name in names if not name.endswith(".part")]
    return kept, weights, evaluations, predicted, Path(result.dev_predictions).read_bytes()


def test_a_fine_tuning_that_is_killed_at_any_change_of_the_disk_ends_as_one_that_is_not(run, unit, trained, tmp_path):
    with killed_at_change(-1) as changes:
        whole = run(tmp_path / "whole", unit)
    for number in at_each_folder(changes):
        folder = tmp_path / str(number)
        with killed_at_change(number), pytest.raises(KilledError):
            run(folder, unit)
        is_complete = is_done(plan_of(folder), unit)
        if is_complete:
            assert [content(read_result(plan_of(folder), unit))] == whole
        trained.clear()
        assert run(folder, unit) == whole, changes[number]
        assert trained == [] if is_complete else [1]


def test_only_the_fine_tunings_without_a_result_are_trained_whichever_these_are(run, unit, trained, tmp_path):
    units = [replace(unit, seed=seed) for seed in (1, 2, 3)]
    whole = run(tmp_path / "whole", *units)
    run(tmp_path / "run", units[0], units[2])
    trained.clear()
    assert run(tmp_path / "run", *units) == whole
    assert trained == [2]


@pytest.mark.parametrize(
    ("of_plan", "of_unit"),
    [
        ({"precision": "bf16"}, {}),
        ({"with_test": False}, {}),
        ({"distillation": TaskDistillationConfig(teacher_run_dir="unused")}, {}),
        ({}, {"start": "mnli"}),
        ({}, {"settings": SETTINGS.model_copy(update={"learning_rate": 1e-3})}),
    ],
    ids=["precision", "with_test", "distillation", "start", "settings"],
)
def test_the_result_of_another_fine_tuning_is_refused(run, unit, tmp_path, of_plan, of_unit):
    run(tmp_path, unit)
    with pytest.raises(InputError, match="the result of other settings"):
        read_result(plan_of(tmp_path, **of_plan), replace(unit, **of_unit))
