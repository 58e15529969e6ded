import itertools

import pytest
import torch

from distilray.config.distillation import OptimizerConfig
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.training.optimizer import Updater, create_optimizer, linear_schedule, set_learning_rate

CONFIG = OptimizerConfig(learning_rate=1e-3, head_learning_rate=5e-3, weight_decay=0.1)


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model(request, teacher_dir):
    teacher = load_masked_lm(teacher_dir)
    return teacher if request.param == "bert" else create_student(teacher)[0]


def groups_of(model, optimizer, key):
    """Return the names of the parameters by a setting of their group; each parameter is in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {}
    for group in optimizer.param_groups:
        groups.setdefault(group[key], []).extend(names.pop(id(parameter)) for parameter in group["params"])
    assert not names
    return {value: sorted(group) for value, group in groups.items()}


def test_weights_except_biases_and_layer_norms_decay_at_the_configured_rate(model):
    names = [name for name, _ in model.named_parameters()]
    norms = [name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    constant = sorted({name for name in names if name.endswith("bias")} | {f"{norm}.weight" for norm in norms})
    assert len(norms) > 3
    groups = groups_of(model, create_optimizer(model, CONFIG), "weight_decay")
    assert groups == {0.0: constant, 0.1: sorted({*names} - {*constant})}


def test_only_the_head_has_its_own_learning_rate(model):
    groups = groups_of(model, create_optimizer(model, CONFIG), "peak_lr")
    names = [name for name, _ in model.named_parameters()]
    head = sorted(name for name in names if name.startswith(("cls.predictions.", "vocab_")))
    assert len(head) == 5
    assert groups == {5e-3: head, 1e-3: sorted({*names} - {*head})}
    one_rate = create_optimizer(model, CONFIG.model_copy(update={"head_learning_rate": None}))
    assert groups_of(model, one_rate, "peak_lr") == {1e-3: sorted(names)}


def test_frozen_parameters_are_left_out(teacher_dir):
    model = load_masked_lm(teacher_dir)
    frozen = model.get_parameter("bert.embeddings.LayerNorm.weight").requires_grad_(False)
    groups = create_optimizer(model, CONFIG).param_groups
    expected = {id(parameter) for parameter in model.parameters() if parameter is not frozen}
    assert {id(parameter) for group in groups for parameter in group["params"]} == expected


def test_betas_and_eps_are_configured(model):
    optimizer = create_optimizer(model, OptimizerConfig(betas=(0.5, 0.6), eps=0.25))
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.5, 0.6), 0.25)}


def test_the_rate_of_every_group_is_set_in_proportion(model):
    optimizer = create_optimizer(model, CONFIG)
    assert set_learning_rate(optimizer, 0.25) == pytest.approx(0.25 * 5e-3)
    assert all(group["lr"] == 0.25 * group["peak_lr"] for group in optimizer.param_groups)


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


def test_the_schedule_is_linear_in_both_parts():
    factors = [linear_schedule(step, total_steps=1000, warmup_fraction=0.1) for step in range(1001)]
    changes = [abs(after - before) for before, after in itertools.pairwise(factors)]
    assert max(changes) == pytest.approx(1 / 100)
    assert [factors[49], factors[550]] == pytest.approx([0.5, 0.5])


def test_in_fp16_a_gradient_that_is_not_finite_fails_only_at_the_lowest_loss_scale():
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "peak_lr": 0.1}], lr=0.1)
    updater = Updater(module, optimizer, lambda _: 1.0, max_grad_norm=1.0, uses_fp16=True, on_nonfinite="fail")
    updater.load_scaler_state({**updater.scaler_state(), "scale": 4.0})

    def update(gradient):
        updater.scale_loss(module(torch.ones(1)).sum() * gradient).backward()
        return updater.update(0, float(updater.clip_gradients()))

    assert [update(float("inf")).is_skipped for _ in range(2)] == [True, True]
    assert updater.scaler_state()["scale"] == 1.0
    assert not update(1.0).is_skipped
    with pytest.raises(RuntimeError, match=r"step 1: gradient norm is .* lower the rate"):
        update(float("inf"))
