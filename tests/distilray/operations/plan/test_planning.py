import pytest
import yaml

from distilray.config.base import input_locations
from distilray.errors import InputError
from distilray.operations.plan.planning import pipeline_plan, plan_summary
from tests.tiny.plan import plan_config

ORDER = ["build_corpus", "encode_corpus", "distill", "evaluate_glue", "export_model"]
WORKERS = 16  # on two machines
TWO_MACHINES = {"simulation": {"workers": [WORKERS]}, "text": {"wikipedia_words": 50_000_000}}
PREEMPTED = {"preemptions_per_machine_hour": 2.0}


def plan_of(folder, **values):
    return pipeline_plan(plan_config(folder, **values))


def stage_of(folder, name, **values):
    (stage,) = (stage for stage in plan_of(folder, **values).stages if stage.stage == name)
    return stage


def run_of(folder, workers=WORKERS, **values):
    (run,) = (run for run in plan_of(folder, **{**TWO_MACHINES, **values}).runs if run.workers == workers)
    return run


def test_stages_are_in_pipeline_order_with_consistent_hours_and_costs(tmp_path):
    stages = plan_of(tmp_path).stages
    assert [stage.stage for stage in stages] == ORDER
    for stage in stages:
        assert stage.device_hours == pytest.approx(stage.hours * stage.devices)
        assert stage.machine_hours == pytest.approx(stage.hours * stage.machines)
        assert stage.cost == pytest.approx(stage.machine_hours * stage.price_per_machine_hour)
        assert stage.hours > 0
        assert 0 < stage.kept_gb <= stage.written_gb


def test_distillation_on_eight_gpus_pays_for_one_machine_of_eight_or_for_each_worker(tmp_path):
    stage = stage_of(tmp_path, "distill")
    assert (stage.devices, stage.machines) == (8, 1)
    per_worker = stage_of(tmp_path, "distill", estimate={"price_per_hour": 2.0})
    assert per_worker.cost == pytest.approx(2.0 * per_worker.device_hours)


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("price_per_machine_hour", ["distill", "evaluate_glue"]),
        ("data_price_per_machine_hour", ["build_corpus", "encode_corpus", "export_model"]),
    ],
)
def test_twice_the_price_is_twice_the_cost_of_its_stages(tmp_path, key, stages):
    once, twice = (plan_of(tmp_path, cluster={key: price}).stages for price in (3.0, 6.0))
    ratios = {stage.stage: stage.cost / first.cost for first, stage in zip(once, twice, strict=True)}
    assert ratios == pytest.approx({name: 2.0 if name in stages else 1.0 for name in ORDER})
    assert [stage.hours for stage in once] == [stage.hours for stage in twice]


def one_task(seeds):
    recipes = {
        "evaluate_glue": {"tasks": ["cola"], "fine_tuning": {"seeds": seeds}},
        "distill": {"scaling": {"num_workers": 1}},
    }
    return {"recipes": recipes}


@pytest.mark.parametrize(
    ("stage", "first", "second", "hours", "device_hours"),
    [
        ("build_corpus", {"cluster": {"data_machines": 1}}, {"cluster": {"data_machines": 4}}, 1 / 4, 1),
        ("evaluate_glue", one_task([1]), one_task([1, 2]), 2, 2),
    ],
    ids=["data machines", "fine-tuning runs on one worker"],
)
def test_hours_are_in_proportion_to_work_and_machines(tmp_path, stage, first, second, hours, device_hours):
    before, after = stage_of(tmp_path, stage, **first), stage_of(tmp_path, stage, **second)
    assert after.hours == pytest.approx(hours * before.hours)
    assert after.device_hours == pytest.approx(device_hours * before.device_hours)


@pytest.mark.parametrize("straggler_mean", [0.0, 0.02])
def test_a_stated_rate_of_one_worker_takes_precedence_over_the_table(tmp_path, straggler_mean):
    recipes = {
        "encode_corpus": {"heldout_fraction": 0.0},
        "distill": {"intervals": {"checkpoint_every_steps": 10**9}},
    }
    rate, slowdowns = {"tokens_per_s": 1234.0}, {"straggler_mean": straggler_mean}
    plan = plan_of(tmp_path, recipes=recipes, estimate=rate, slowdowns=slowdowns)
    assert plan.runs[0].workers == 1
    assert plan.runs[0].tokens_per_s == pytest.approx(1234.0, rel=0.1 * straggler_mean + 1e-6)


def test_a_measured_rate_is_that_of_a_worker_of_the_run(tmp_path):
    with pytest.raises(InputError, match=r"estimate\.measured_run_dir"):
        plan_of(tmp_path, estimate={"measured_run_dir": str(tmp_path)})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "tokens_per_s": 4000}\n{"step": 2, "tokens_per_s": 6000}\n')
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"config": {"scaling": {"num_workers": 4}}}))
    rates = ({"measured_run_dir": str(tmp_path)}, {"tokens_per_s": 1250.0})
    measured, stated = (run_of(tmp_path, estimate=rate) for rate in rates)
    assert measured == stated


def test_the_workers_of_the_recipe_are_planned_even_if_they_are_not_simulated(tmp_path):
    recipes = {"distill": {"scaling": {"num_workers": 3}}}
    plan = plan_of(tmp_path, recipes=recipes, simulation={"workers": [1, 2]})
    assert plan.run.workers == 3
    assert [run.workers for run in plan.runs] == [1, 2]


def test_overrides_and_omitted_stages_are_those_of_the_plan_recipe(tmp_path):
    config = plan_config(tmp_path)
    distill = config.stages.distill.model_copy(update={"overrides": ["max_steps=7"]})
    stages = config.stages.model_copy(update={"distill": distill, "build_corpus": None, "evaluate_glue": None})
    plan = pipeline_plan(config.model_copy(update={"stages": stages}))
    assert plan.training.steps == 7
    assert [stage.stage for stage in plan.stages] == ["encode_corpus", "distill", "export_model"]
    assert set(input_locations(plan.config)) == {"encode_corpus", "distill", "export_model"}


ON_L4 = {"cluster": {"machine": "g6.48xlarge"}, "recipes": {"distill": {"micro_batch_size": 8}}}


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({}, None),
        ({"recipes": {"distill": {"micro_batch_size": 512, "batch_size": 4096}}}, "lower micro_batch_size"),
        (ON_L4, "projection"),
        ({**ON_L4, "estimate": {"tokens_per_s": 1e4}}, None),
    ],
    ids=["none", "memory", "projected rate", "stated rate"],
)
def test_a_model_that_does_not_fit_and_a_projected_rate_are_warnings(tmp_path, values, warning):
    summary = str(plan_summary(plan_config(tmp_path, **values)))
    assert ("warning" in summary) is (warning is not None)
    assert (warning or "") in summary


@pytest.mark.parametrize(("machine", "precision"), [("g4dn.12xlarge", "fp16"), ("p4d.24xlarge", "bf16")])
def test_the_plan_uses_the_precision_that_auto_means_on_the_device(tmp_path, machine, precision):
    auto, explicit = (
        run_of(tmp_path, recipes={"distill": recipe}, cluster={"machine": machine})
        for recipe in ({}, {"precision": precision})
    )
    assert auto == explicit


def test_a_precision_that_the_device_does_not_support_is_refused(tmp_path):
    with pytest.raises(InputError, match="V100 does not support bf16"):
        plan_of(tmp_path, recipes={"distill": {"precision": "bf16"}}, cluster={"machine": "p3.16xlarge"})


# Every value of a plan recipe changes the plan, in the direction and unit of its name.


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": {"layers": 24}},
        {"teacher": {"dim": 1536}},
        {"teacher": {"hidden_dim": 6144}},
        {"teacher": {"vocabulary": 300_000}},
        {"text": {"wikipedia_words": 100_000_000}},
        {"text": {"wikipedia_words": 50_000_000, "book_words": 900_000_000}},
        {"text": {"wikipedia_words": 50_000_000, "tokens_per_word": 3.0}},
        {"cluster": {"mfu": 0.01}},
        {"slowdowns": {"straggler_mean": 0.5}},
        {"slowdowns": {**PREEMPTED, "restart_s": 180.0}},
    ],
    ids=str,
)
def test_a_run_takes_longer_with(tmp_path, change):
    assert run_of(tmp_path, **change).hours > run_of(tmp_path).hours


def test_half_the_share_of_the_peak_takes_twice_the_compute(tmp_path):
    fast, slow = (run_of(tmp_path, cluster={"mfu": mfu}) for mfu in (0.04, 0.02))
    assert slow.parts["compute"] == pytest.approx(2 * fast.parts["compute"])


def test_a_restart_takes_its_seconds_and_without_a_notice_steps_are_repeated(tmp_path):
    short, long, unannounced = (
        run_of(tmp_path, slowdowns={**PREEMPTED, "restart_s": seconds, "preemption_notice": notice})
        for seconds, notice in ((60.0, True), (120.0, True), (120.0, False))
    )
    assert short.preemptions == long.preemptions > 0
    assert (long.hours - short.hours) * 3600 == pytest.approx(60.0 * short.preemptions)
    assert unannounced.hours > long.hours


@pytest.mark.parametrize("change", [{"heads": 24}, {"positions": 4096}], ids=str)
def test_the_shape_of_the_teacher_is_that_of_the_recipe(tmp_path, change):
    plans = [plan_of(tmp_path, **TWO_MACHINES, teacher=shape) for shape in ({}, change)]
    assert plans[0] != plans[1]


def test_held_out_examples_beyond_the_limit_cost_nothing(tmp_path):
    def evaluation_s(**intervals):
        recipes = {"distill": {"intervals": intervals}, "encode_corpus": {"heldout_fraction": 0.2}}
        return run_of(tmp_path, recipes=recipes).parts["evaluation"]

    assert evaluation_s(heldout_examples=100) < 0.5 * evaluation_s()
    assert evaluation_s(evaluate_every_steps=10) > 2 * evaluation_s(evaluate_every_steps=1000)
