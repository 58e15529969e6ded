import pytest

from distilray.config.glue import EvaluateGlueConfig
from distilray.config.plan import TextConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.models.flops import ModelSize
from distilray.operations.plan.machines import MACHINES
from distilray.operations.plan.stage_plans import (
    FineTuningRuns,
    StageMachines,
    corpus_plan,
    encoding_plan,
    fine_tuning_runs,
    wall_seconds,
)
from distilray.operations.plan.workload import estimate_examples

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


def test_data_stages_take_the_measured_core_seconds_on_all_cores_and_write_their_output_twice():
    machines = StageMachines(MACHINES["m7i.4xlarge"], 2, 32, 1.0)
    text = TextConfig(dump_gb=0.1, wikipedia_words=10_000_000, book_words=2_000_000, tokens_per_word=1.5)
    encoding = EncodeCorpusConfig(run_dir="-", corpus_dir="-", tokenizer_dir="-", dupe_factor=3)
    examples = estimate_examples(text, encoding)
    corpus, shards = corpus_plan(text, machines), encoding_plan(examples, encoding, machines)
    # Two cores are 1.8 times as fast as one.
    assert corpus.hours * 3600 * 32 * 0.9 == pytest.approx((0.1e3 * 3.51 + 2 * 5.8) / 4.9)
    assert shards.hours * 3600 * 32 * 0.9 == pytest.approx(18_000_000 * (1.204e-6 + 3 * 0.2244e-6))
    assert (corpus.kept_gb, corpus.written_gb) == pytest.approx((0.012 * 2.71, 0.024 * 2.71))
    assert (shards.kept_gb, shards.written_gb) == (examples.shard_bytes / 1e9, 2 * examples.shard_bytes / 1e9)
    assert (corpus.machines, corpus.devices, corpus.device) == (2, 32, "core")
