import pytest

from distilray.config.glue import EvaluateGlueConfig
from distilray.models.flops import ModelSize
from distilray.operations.plan.stage_plans import FineTuningRuns, fine_tuning_runs, wall_seconds

MODEL = ModelSize(6, 768, 3072, 30_522)


def by_task(*, flops_per_s=1e12, is_gpu=False, **values):
    config = EvaluateGlueConfig.model_validate({"run_dir": "-", "model_dir": "-", "glue_dir": "-", **values})
    return {one.task: one for one in fine_tuning_runs(config, MODEL, flops_per_s=flops_per_s, is_gpu=is_gpu)}


def test_every_task_has_a_fine_tuning_for_each_seed():
    runs = by_task(per_task={"rte": {"seeds": [7, 8]}})
    assert len(runs) == 9
    assert runs["rte"].count == 2


def test_seconds_are_in_proportion_to_flops_and_epochs_and_depend_on_the_recipe_of_the_task():
    slow, fast, short = by_task(), by_task(flops_per_s=2e12), by_task(fine_tuning={"epochs": 1})
    for task, run in slow.items():
        assert run.seconds == pytest.approx(2 * fast[task].seconds) == pytest.approx(3 * short[task].seconds)
    few = by_task(per_task={"sst2": {"max_train_examples": 1000}, "rte": {"max_length": 32}})
    assert few["sst2"].seconds < 0.05 * slow["sst2"].seconds
    assert few["rte"].seconds < slow["rte"].seconds
    assert few["mnli"] == slow["mnli"]


def test_small_batches_wait_for_the_launch_of_kernels_on_a_gpu_only():
    small = {"fine_tuning": {"batch_size": 8}}
    assert by_task(flops_per_s=1e15, is_gpu=True, **small)["cola"].seconds > 1069 * 3 * 0.008  # steps of three epochs
    assert by_task(flops_per_s=1e15, **small)["cola"].seconds < 1


def test_no_number_of_workers_is_faster_than_the_longest_fine_tuning():
    task_runs = [FineTuningRuns("cola", 4, 10.0), FineTuningRuns("mnli", 1, 50.0)]
    assert wall_seconds(task_runs, 1) == 90.0
    assert wall_seconds(task_runs, 64) == 50.0
