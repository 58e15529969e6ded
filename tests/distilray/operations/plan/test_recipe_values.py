"""Every value of a plan recipe changes the plan, in the direction and unit of its name."""

import pytest

from distilray.operations.plan.planning import pipeline_plan
from tests.tiny.plan import plan_config

WORKERS = 16  # on two machines
BASE = {"simulation": {"workers": [WORKERS]}, "text": {"wikipedia_words": 50_000_000}}
PREEMPTED = {"preemptions_per_machine_hour": 2.0}


def run_of(folder, **changes):
    """Return the simulated distillation on two machines."""
    values = {**BASE, **changes, "simulation": {**BASE["simulation"], **changes.get("simulation", {})}}
    (run,) = (run for run in pipeline_plan(plan_config(folder, **values)).runs if run.workers == WORKERS)
    return run


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


def test_a_restart_of_a_minute_takes_a_minute(tmp_path):
    """One more minute for every preemption."""
    short, long = (run_of(tmp_path, slowdowns={**PREEMPTED, "restart_s": seconds}) for seconds in (60.0, 120.0))
    assert short.preemptions == long.preemptions > 0
    assert (long.hours - short.hours) * 3600 == pytest.approx(60.0 * short.preemptions)


def test_without_a_notice_the_steps_since_the_checkpoint_are_repeated(tmp_path):
    announced, unannounced = (
        run_of(tmp_path, slowdowns={**PREEMPTED, "preemption_notice": notice}) for notice in (True, False)
    )
    assert unannounced.hours > announced.hours


@pytest.mark.parametrize("change", [{"heads": 24}, {"positions": 4096}], ids=str)
def test_the_shape_of_the_teacher_is_that_of_the_recipe(tmp_path, change):
    plans = [pipeline_plan(plan_config(tmp_path, **BASE, teacher=shape)) for shape in ({}, change)]
    assert plans[0] != plans[1]


def test_held_out_examples_beyond_the_limit_cost_nothing(tmp_path):
    def share(**intervals):
        recipes = {"distill": {"intervals": intervals}, "encode_corpus": {"heldout_fraction": 0.2}}
        plan = pipeline_plan(plan_config(tmp_path, recipes, **BASE))
        return next(run.parts["evaluation"] for run in plan.runs if run.workers == WORKERS)

    assert share(heldout_examples=100) < 0.5 * share()
    assert share(evaluate_every_steps=10) > 2 * share(evaluate_every_steps=1000)
