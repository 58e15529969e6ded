import re
import sys

import pytest
import yaml

from distilray.config.distillation import DistillConfig, EstimateConfig
from distilray.distillation.cost import time_and_cost, total_steps
from distilray.distillation.dry_run import plan_distillation
from distilray.errors import InputError

VALUES = {
    "run_dir": "unused",
    "batch_size": 10,
    "micro_batch_size": 5,
    "max_steps": 7,
    "precision": "fp32",
    "scaling": {"num_workers": 2, "use_gpu": False},
}


@pytest.fixture
def plan(teacher_dir, shards_dir):
    def made(**changes):
        values = {**VALUES, "teacher_dir": teacher_dir, "shards_dir": shards_dir, **changes}
        return plan_distillation(DistillConfig.model_validate(values))

    return made


def gigabytes(text):
    return float(re.search(r"([\d.,]+) GB", text)[1].replace(",", ""))


def never(_):
    raise AssertionError("nothing was to be measured")


def test_epochs_give_whole_steps_and_max_steps_wins():
    config = DistillConfig(run_dir="-", shards_dir="-", teacher_dir="-", batch_size=30, micro_batch_size=30, epochs=2)
    assert total_steps(config, 100) == 6
    assert total_steps(config, 3) == 1
    assert total_steps(config.model_copy(update={"max_steps": 50}), 100) == 50


def test_the_time_follows_from_the_stated_rate_of_all_workers():
    found = time_and_cost(EstimateConfig(tokens_per_s=100), 7_200_000, workers=4, measured_rate=never)
    assert found == "about 5 h 00 min at 100 tokens/s of a worker (stated), 20.0 worker hours"


def test_the_cost_is_that_of_all_worker_hours():
    estimate = EstimateConfig(tokens_per_s=100, price_per_hour=2.5)
    assert time_and_cost(estimate, 7_200_000, workers=4, measured_rate=never).endswith(", 50.00 in money")


def test_without_a_rate_the_time_is_unknown_and_the_plan_says_what_to_set():
    assert "estimate.tokens_per_s" in time_and_cost(EstimateConfig(), 1000, workers=1, measured_rate=never)


def test_the_rate_of_an_earlier_run_is_the_median_of_its_rows_for_one_worker(plan, tmp_path):
    rows = [f'{{"step": {step}, "tokens_per_s": {rate}}}\n' for step, rate in enumerate((10, 400, 600))]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"config": {"scaling": {"num_workers": 4}}}))
    assert (
        f"100 tokens/s of a worker (measured in {tmp_path})"
        in plan(estimate={"measured_run_dir": str(tmp_path)})["time"]
    )


def test_a_folder_without_a_training_run_is_refused_as_a_measure(plan, tmp_path):
    with pytest.raises(InputError, match=r"estimate\.measured_run_dir"):
        plan(estimate={"measured_run_dir": str(tmp_path)})


def test_the_plan_counts_tokens_of_all_steps(plan, shards_dir):
    found = plan()
    examples, tokens = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:examples|tokens)", found["shards"])
    )
    assert found["tokens"] == f"{int(tokens / examples * 10 * 7):,}"


def test_activation_checkpointing_and_smaller_micro_batches_take_less_memory(plan):
    sizes = {"micro_batch_size": 4096, "batch_size": 8192}
    whole, small = gigabytes(plan(**sizes)["memory"]), gigabytes(plan(**{**sizes, "micro_batch_size": 512})["memory"])
    again = gigabytes(plan(**sizes, activation_checkpointing=True)["memory"])
    assert small < again < whole


def test_the_plan_names_losses_that_are_on(plan):
    found = plan(losses={"alpha_mlm": 0.0, "alpha_values": 0.5, "reduction": "original"})["losses"]
    assert found == "5 ce, 1 cos, 0.5 values, temperature 2, original reduction"


@pytest.mark.parametrize(
    ("pair", "reason"), [([2, 0], "student has layers 0 to 1"), ([0, 4], "teacher has layers 0 to 3")]
)
def test_a_pair_of_layers_that_are_not_there_is_refused(plan, pair, reason):
    with pytest.raises(InputError, match=f"losses.layer_map: the {reason}"):
        plan(losses={"alpha_hidden": 1.0, "layer_map": [[0, 0], pair]})


def test_a_map_without_a_layer_wise_loss_is_refused(plan):
    with pytest.raises(ValueError, match="layer_map: no layer-wise loss is on"):
        plan(losses={"layer_map": [[0, 0]]})


def test_a_map_of_embeddings_alone_has_no_attention(plan):
    with pytest.raises(ValueError, match="embeddings"):
        plan(losses={"alpha_attention": 1.0, "layer_map": [[-1, -1]]})


def test_more_workers_at_least_than_at_most_are_refused(plan):
    with pytest.raises(ValueError, match="min_workers 3 is more than num_workers 2"):
        plan(scaling={"num_workers": 2, "min_workers": 3, "use_gpu": False})


def test_a_tracker_whose_package_is_missing_is_refused_before_anything_starts(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="tracker 'wandb' needs the package wandb"):
        plan(trackers={"extra": ["wandb"]})
