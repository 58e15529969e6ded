"""Fine-tuning runs killed before any change of the disk have the same result, and none is trained twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from distilray.config.glue import FineTuneScaling, TaskDistillationConfig
from distilray.errors import InputError
from distilray.finetuning import fine_tune as module
from distilray.finetuning.fine_tune_run import (
    FineTunePlan,
    FineTuneRun,
    is_done,
    read_predictions,
    read_result,
    steps_done,
)
from tests.distilray.interruptions import KilledError, at_each_folder, killed_at_change
from tests.tiny.tasks import features, settings

SCALING = FineTuneScaling(num_workers=1, use_gpu=False, cpus_per_worker=1)
SETTINGS = settings(epochs=2, batch_size=4)


@pytest.fixture
def trained(monkeypatch):
    """Seeds of the runs that are executed, in order, without Ray."""
    seeds, execute_run = [], module.execute_run

    def execute(plan, run, *arguments, **options):
        seeds.append(run.seed)
        execute_run(plan, run, *arguments, **options)

    monkeypatch.setattr(module, "execute_run", execute)
    monkeypatch.setattr(module, "run_on_workers", lambda loop, *_, **__: loop())
    monkeypatch.setattr(module, "ensure_capacity", lambda *_, **__: 1)
    for name in ("put", "get"):
        monkeypatch.setattr(module.ray, name, lambda value: value)
    return seeds


@pytest.fixture
def execute(trained, bert_dir):
    """Execute runs, and return their results without times."""
    rows = {"cola": features("cola", bert_dir, train=4, dev=4, test=3, changes=SETTINGS)}

    def execute(folder, *runs):
        results = module.execute_runs(runs, rows, plan_of(folder), run_dir=str(folder), job="evaluate_glue")
        return [content(results[run.task, run.seed]) for run in runs]

    return execute


@pytest.fixture
def run(bert_dir):
    return FineTuneRun("cola", 1, SETTINGS, bert_dir)


def plan_of(folder, **changes):
    plan = FineTunePlan(str(folder), "fp32", SCALING, with_test=True)
    return replace(plan, **changes)


def content(result):
    folder = Path(result.folder)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    evaluations = [replace(each, seconds=0.0) for each in result.fine_tuned.evaluations]
    predictions = {name: values.tolist() for name, values in read_predictions(result).items()}
    assert {name: len(values) for name, values in predictions.items()} == {"test": 3}
    complete = [file for file in files if not file.endswith(".part")]
    weights, dev = Path(result.model_dir, "model.safetensors"), Path(result.dev_predictions)
    return complete, evaluations, predictions, weights.read_bytes(), dev.read_bytes()


def test_a_run_killed_at_any_change_of_the_disk_resumes_to_the_same_result(execute, run, trained, tmp_path):
    with killed_at_change(-1) as changes:
        expected = execute(tmp_path / "uninterrupted", run)
    for number in at_each_folder(changes):
        folder = tmp_path / str(number)
        with killed_at_change(number), pytest.raises(KilledError):
            execute(folder, run)
        is_complete = is_done(plan_of(folder), run)
        if is_complete:
            assert [content(read_result(plan_of(folder), run))] == expected
        trained.clear()
        assert execute(folder, run) == expected, changes[number]
        assert trained == ([] if is_complete else [1])


def test_only_runs_without_a_result_are_executed_and_the_longest_starts_first(execute, run, trained, tmp_path):
    longer = SETTINGS.model_copy(update={"epochs": 3})
    runs = [run, replace(run, seed=2, settings=longer), replace(run, seed=3)]
    expected = execute(tmp_path / "all", *runs)
    assert trained == [2, 1, 3]
    execute(tmp_path / "resumed", runs[0], runs[2])
    assert [steps_done(plan_of(tmp_path / "resumed"), each, 3) for each in runs] == [3, 0, 3]
    trained.clear()
    assert execute(tmp_path / "resumed", *runs) == expected
    assert trained == [2]


def test_the_result_of_a_run_with_other_settings_is_refused(execute, run, tmp_path):
    execute(tmp_path, run)
    plan, rate = plan_of(tmp_path), SETTINGS.model_copy(update={"learning_rate": 1e-3})
    for other_plan, other_run in (
        (replace(plan, precision="bf16"), run),
        (replace(plan, deterministic=True), run),
        (replace(plan, with_test=False), run),
        (replace(plan, distillation=TaskDistillationConfig(teacher_run_dir="unused")), run),
        (plan, replace(run, start="mnli")),
        (plan, replace(run, settings=rate)),
    ):
        with pytest.raises(InputError, match="the result of other settings"):
            read_result(other_plan, other_run)
    Path(plan.dev_predictions(run)).unlink()
    with pytest.raises(InputError, match="no dev predictions"):
        read_result(plan, run)
