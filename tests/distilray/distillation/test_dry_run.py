import re
import sys

import pytest
import yaml

from distilray.config.distillation import DistillConfig, EstimateConfig, IntervalsConfig
from distilray.distillation.cost import checkpoint_gb, time_and_cost, total_steps, worker_memory_gb
from distilray.distillation.dry_run import plan_distillation

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


@pytest.mark.parametrize(
    ("examples", "changes", "steps"), [(100, {}, 6), (3, {}, 1), (100, {"max_steps": 50}, 50)], ids=str
)
def test_the_number_of_steps_follows_from_epochs_unless_it_is_set(examples, changes, steps):
    values = {"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", "batch_size": 30, "micro_batch_size": 30}
    assert total_steps(DistillConfig(**values, epochs=2, **changes), examples) == steps


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (
            {"tokens_per_s": 100, "price_per_hour": 2.5, "measured_run_dir": "unused"},
            "about 5 h 00 min at 100 tokens/s per worker (stated), 20.0 worker hours, "
            "cost 50.00 (in the currency of price_per_hour)",
        ),
        ({"tokens_per_s": 200}, "about 2 h 30 min at 200 tokens/s per worker (stated), 10.0 worker hours"),
        (
            {"measured_run_dir": "/run"},
            "about 10 h 00 min at 50 tokens/s per worker (measured in /run), 40.0 worker hours",
        ),
        ({}, "unknown: set estimate.tokens_per_s or estimate.measured_run_dir"),
    ],
    ids=["stated rate and price", "stated rate", "measured rate", "nothing"],
)
def test_time_and_cost_follow_from_the_rate_of_a_worker(estimate, text):
    config = EstimateConfig(**estimate)
    assert time_and_cost(config, 7_200_000, workers=4, measured_rate={"/run": 50.0}.__getitem__) == text


def test_the_measured_rate_is_the_median_of_an_earlier_run_for_one_worker(plan, tmp_path):
    rows = [f'{{"step": {step}, "tokens_per_s": {rate}}}\n' for step, rate in enumerate((10, 400, 600))]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"config": {"scaling": {"num_workers": 4}}}))
    time = plan(estimate={"measured_run_dir": str(tmp_path)})["time"]
    assert f"100 tokens/s per worker (measured in {tmp_path})" in time


def test_the_plan_counts_the_tokens_of_all_steps(plan):
    values = plan()
    examples, tokens = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:examples|tokens)", values["shards"])
    )
    assert values["tokens"] == f"{int(tokens / examples * 10 * 7):,}"


@pytest.mark.parametrize("freeze", [True, False])
def test_the_plan_mentions_frozen_position_embeddings(plan, freeze):
    assert ("frozen position embeddings" in plan(student={"freeze_positions": freeze})["student"]) == freeze


@pytest.mark.parametrize(("precision", "width"), [("fp32", 2), ("bf16", 1)])
def test_the_memory_of_a_worker_follows_from_the_shape_of_its_models(teacher, precision, width):
    values = {"teacher_dir": "-", "shards_dir": "-", "micro_batch_size": 8, "precision": precision}
    config = DistillConfig.model_validate(VALUES | values)
    recomputing = DistillConfig.model_validate(VALUES | values | {"activation_checkpointing": True})
    parameters, logits = sum(each.numel() for each in teacher.parameters()), 2048 * teacher.config.vocab_size * 4
    tokens, length, layers, dim, heads = 8 * 32, 32, 4, 32, 2
    layer = tokens * dim * (34 + 5 * heads * length / dim) * width
    expected = parameters * (16 + 2 * width) + (layers + 0.5) * layer + logits
    assert worker_memory_gb(config, max_seq_length=length, model=teacher, teacher=teacher) == pytest.approx(
        expected / 1e9
    )
    expected = parameters * 16 + layers * 2 * tokens * dim * width + layer + logits
    assert worker_memory_gb(recomputing, max_seq_length=length, model=teacher, teacher=None) == pytest.approx(
        expected / 1e9
    )


@pytest.mark.parametrize(("steps", "written", "kept"), [(5, 1, 1), (20, 2, 2), (25, 3, 2)])
def test_checkpoints_and_the_model_need_disk_space(steps, written, kept):
    intervals = IntervalsConfig(checkpoint_every_steps=10, keep_checkpoints=1)
    assert checkpoint_gb(10**9, steps, intervals) == pytest.approx((written * 12 + 4, kept * 12 + 4))


def test_the_plan_lists_the_losses_with_a_weight(plan):
    values = plan(losses={"alpha_mlm": 0.0, "alpha_values": 0.5, "reduction": "original"})
    assert values["losses"] == "5 ce, 1 cos, 0.5 values, temperature 2, original reduction"


REFUSED = {
    "losses.layer_map: the student has layers 0 to 1": {"losses": {"alpha_hidden": 1.0, "layer_map": [[0, 0], [2, 0]]}},
    "losses.layer_map: the teacher has layers 0 to 3": {"losses": {"alpha_hidden": 1.0, "layer_map": [[0, 0], [0, 4]]}},
    "layer_map: no layer-wise loss is on": {"losses": {"layer_map": [[0, 0]]}},
    "have no attention": {"losses": {"alpha_attention": 1.0, "layer_map": [[-1, -1]]}},
    "min_workers 3 is more than num_workers 2": {"scaling": {"num_workers": 2, "min_workers": 3, "use_gpu": False}},
    "estimate.measured_run_dir: / is not a training run": {"estimate": {"measured_run_dir": "/"}},
    "tracker 'wandb' needs the package wandb": {"trackers": {"extra": ["wandb"]}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_recipe_that_cannot_run_is_refused(plan, monkeypatch, message):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=message):
        plan(**REFUSED[message])
