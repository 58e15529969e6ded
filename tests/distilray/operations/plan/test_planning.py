import pytest
import yaml

from distilray.config.base import input_locations
from distilray.errors import InputError
from distilray.operations.plan.planning import pipeline_plan, plan_summary
from tests.tiny.plan import plan_config

ORDER = ["build_corpus", "encode_corpus", "distill", "evaluate_glue", "export_model"]


def stages(folder, **values):
    return {one.stage: one for one in pipeline_plan(plan_config(folder, **values)).stages}


def run_of(plan, workers):
    return next(run for run in plan.runs if run.workers == workers)


def test_stages_are_in_pipeline_order(tmp_path):
    assert list(stages(tmp_path)) == ORDER


def test_hours_times_devices_are_device_hours_and_hours_times_machines_are_paid(tmp_path):
    for one in stages(tmp_path).values():
        assert one.device_hours == pytest.approx(one.hours * one.devices)
        assert one.machine_hours == pytest.approx(one.hours * one.machines)
        assert one.cost == pytest.approx(one.machine_hours * one.price_per_machine_hour)
        assert one.hours > 0
        assert 0 < one.kept_gb <= one.written_gb


def test_distillation_on_eight_gpus_pays_for_one_machine_of_eight(tmp_path):
    one = stages(tmp_path)["distill"]
    assert (one.devices, one.machines) == (8, 1)
    assert one.device_hours == pytest.approx(8 * one.machine_hours)


@pytest.mark.parametrize("key", ["price_per_machine_hour", "data_price_per_machine_hour"])
def test_twice_the_price_is_twice_the_cost(tmp_path, key):
    once, twice = (stages(tmp_path, cluster={key: price}) for price in (3.0, 6.0))
    changed = {name for name in ORDER if twice[name].cost != once[name].cost}
    assert changed == ({"distill", "evaluate_glue"} if key.startswith("price") else set(ORDER[:2]) | {"export_model"})
    for name in changed:
        assert twice[name].cost == pytest.approx(2 * once[name].cost)
        assert twice[name].hours == once[name].hours


def test_a_price_of_a_worker_is_paid_for_each_worker(tmp_path):
    one = stages(tmp_path, estimate={"price_per_hour": 2.0})["distill"]
    assert one.cost == pytest.approx(2.0 * one.device_hours)


@pytest.mark.parametrize("straggler_mean", [0.0, 0.02])
def test_a_stated_rate_of_one_worker_wins_over_the_table(tmp_path, straggler_mean):
    plan = pipeline_plan(
        plan_config(
            tmp_path,
            {"encode_corpus": {"heldout_fraction": 0.0}, "distill": {"intervals": {"checkpoint_every_steps": 10**9}}},
            estimate={"tokens_per_s": 1234.0},
            slowdowns={"straggler_mean": straggler_mean},
        )
    )
    assert run_of(plan, 1).tokens_per_s == pytest.approx(1234.0, rel=0.1 * straggler_mean + 1e-6)


def test_a_measured_rate_is_that_of_a_worker_of_the_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "tokens_per_s": 4000}\n{"step": 2, "tokens_per_s": 6000}\n')
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"config": {"scaling": {"num_workers": 4}}}))
    measured, stated = (
        run_of(pipeline_plan(plan_config(tmp_path, estimate=rate)), 8)
        for rate in ({"measured_run_dir": str(tmp_path)}, {"tokens_per_s": 1250.0})
    )
    assert measured == stated


def test_a_folder_without_rates_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"estimate\.measured_run_dir"):
        pipeline_plan(plan_config(tmp_path, estimate={"measured_run_dir": str(tmp_path)}))


def test_half_the_share_of_the_peak_takes_twice_the_compute(tmp_path):
    fast, slow = (run_of(pipeline_plan(plan_config(tmp_path, cluster={"mfu": mfu})), 1) for mfu in (0.4, 0.2))
    assert slow.parts["compute"] == pytest.approx(2 * fast.parts["compute"])


def test_more_data_machines_take_less_time_and_the_same_core_hours(tmp_path):
    few, many = (stages(tmp_path, cluster={"data_machines": count})["build_corpus"] for count in (1, 4))
    assert many.hours == pytest.approx(few.hours / 4)
    assert many.device_hours == pytest.approx(few.device_hours)


def test_the_workers_of_the_recipe_are_planned_even_if_the_table_leaves_them_out(tmp_path):
    recipes = {"distill": {"scaling": {"num_workers": 3}}}
    plan = pipeline_plan(plan_config(tmp_path, recipes, simulation={"workers": [1, 2]}))
    assert plan.run.workers == 3
    assert [run.workers for run in plan.runs] == [1, 2]


def test_overrides_of_a_stage_are_those_of_its_command(tmp_path):
    config = plan_config(tmp_path)
    rate = config.stages.distill.model_copy(update={"overrides": ["max_steps=7"]})
    changed = config.stages.model_copy(update={"distill": rate})
    assert pipeline_plan(config.model_copy(update={"stages": changed})).training.steps == 7


def test_a_stage_without_a_recipe_is_left_out(tmp_path):
    config = plan_config(tmp_path)
    less = config.stages.model_copy(update={"build_corpus": None, "evaluate_glue": None})
    plan = pipeline_plan(config.model_copy(update={"stages": less}))
    assert [one.stage for one in plan.stages] == ["encode_corpus", "distill", "export_model"]
    assert set(input_locations(plan.config)) == {"encode_corpus", "distill", "export_model"}


def test_one_fine_tuning_more_on_one_worker_takes_its_time(tmp_path):
    hours = [
        stages(
            tmp_path,
            recipes={
                "evaluate_glue": {"tasks": ["cola"], "fine_tuning": {"seeds": list(range(1, seeds + 1))}},
                "distill": {"scaling": {"num_workers": 1}},
            },
        )["evaluate_glue"].hours
        for seeds in (1, 2)
    ]
    assert hours[1] == pytest.approx(2 * hours[0])


def test_a_model_that_does_not_fit_is_a_warning(tmp_path):
    large = {"distill": {"micro_batch_size": 512, "batch_size": 4096}}
    assert "lower micro_batch_size" in str(plan_summary(plan_config(tmp_path, large)))
    assert "warning" not in str(plan_summary(plan_config(tmp_path)))


def test_an_assumed_rate_is_a_warning_until_it_is_measured(tmp_path):
    on_l4 = {"cluster": {"machine": "g6.48xlarge"}, "recipes": {"distill": {"micro_batch_size": 8}}}
    assert "assumption" in str(plan_summary(plan_config(tmp_path, **on_l4)))
    assert "warning" not in str(plan_summary(plan_config(tmp_path, **on_l4, estimate={"tokens_per_s": 1e4})))


def test_a_precision_that_the_device_lacks_is_refused(tmp_path):
    with pytest.raises(InputError, match="V100 does not support bf16"):
        pipeline_plan(
            plan_config(tmp_path, {"distill": {"precision": "bf16"}}, cluster={"machine": "p3.16xlarge"}),
        )
