import itertools

import pytest
import torch

from distilray.config.distillation import OptimizerConfig
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.training.optimizer import create_optimizer, linear_schedule, set_learning_rate

CONFIG = OptimizerConfig(learning_rate=1e-3, head_learning_rate=5e-3, weight_decay=0.1)


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model(request, teacher_dir):
    teacher = load_masked_lm(teacher_dir)
    return teacher if request.param == "bert" else create_student(teacher)[0]


def names_of(model, optimizer, wanted):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)] for group in optimizer.param_groups if wanted(group) for p in group["params"]}


def test_biases_and_layer_norms_and_nothing_else_do_not_decay(model):
    norms = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for part in ("weight", "bias")
    }
    biases = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    found = names_of(model, create_optimizer(model, CONFIG), lambda group: group["weight_decay"] == 0)
    assert found == norms | biases
    assert len(norms) > 6


def test_what_decays_decays_at_the_configured_rate(model):
    optimizer = create_optimizer(model, CONFIG)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def test_each_parameter_is_in_one_group(model):
    found = [id(p) for group in create_optimizer(model, CONFIG).param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())


def test_the_head_and_nothing_else_has_its_own_learning_rate(model):
    found = names_of(model, create_optimizer(model, CONFIG), lambda group: group["peak_lr"] == 5e-3)
    heads = ("cls.predictions.", "vocab_")
    assert found == {name for name, _ in model.named_parameters() if name.startswith(heads)}
    assert len(found) == 5


def test_without_a_head_rate_all_parameters_have_the_same(model):
    optimizer = create_optimizer(model, CONFIG.model_copy(update={"head_learning_rate": None}))
    assert {group["peak_lr"] for group in optimizer.param_groups} == {1e-3}


def test_the_rate_is_set_in_proportion_for_every_group(model):
    optimizer = create_optimizer(model, CONFIG)
    assert set_learning_rate(optimizer, 0.25) == pytest.approx(0.25 * 5e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25 * g["peak_lr"] for g in optimizer.param_groups]


@pytest.mark.parametrize("total", [1, 2, 10, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_the_schedule_rises_to_one_and_falls_to_zero(total, warmup):
    factors = [linear_schedule(step, total_steps=total, warmup_fraction=warmup) for step in range(total + 1)]
    top = factors.index(max(factors))
    assert max(factors) == 1.0
    assert factors[-1] == 0.0
    assert all(0 < factor <= 1 for factor in factors[:-1])
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_the_schedule_has_no_jump():
    factors = [linear_schedule(step, total_steps=1000, warmup_fraction=0.1) for step in range(1001)]
    changes = [abs(after - before) for before, after in itertools.pairwise(factors)]
    assert max(changes) == pytest.approx(1 / 100)
    assert factors[49] == pytest.approx(0.5)
    assert factors[550] == pytest.approx(0.5)
