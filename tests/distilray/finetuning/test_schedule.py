import pytest
import torch

from distilray.finetuning.schedule import adamw, evaluation_steps, rate_share
from tests.distilray.finetuning.tiny_tasks import classifier, settings


@pytest.mark.parametrize(
    ("rows", "evaluations", "expected"),
    [
        (80, 1, [10, 20]),
        (81, 1, [11, 22]),
        (80, 4, [3, 5, 8, 10, 13, 15, 18, 20]),
        (9, 5, [1, 2, 3, 4]),
        (1, 3, [1, 2]),
    ],
)
def test_evaluations_divide_each_epoch_and_the_last_is_at_its_end(rows, evaluations, expected):
    assert evaluation_steps(rows, settings(epochs=2, evaluations_per_epoch=evaluations)) == expected


def shares(schedule, warmup_fraction, total=10):
    values = settings(schedule=schedule, warmup_fraction=warmup_fraction)
    return [rate_share(step, total, values) for step in range(total + 1)]


def test_the_rate_rises_and_falls_in_lines():
    assert shares("linear", 0.2) == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0])


def test_the_rate_falls_in_half_a_cosine():
    found = shares("cosine", 0.2)
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[6] == pytest.approx(0.5)
    assert found[4] == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert found[-1] == pytest.approx(0.0)
    assert found[2:] == sorted(found[2:], reverse=True)


def test_biases_and_layer_norms_do_not_decay(bert_dir):
    model = classifier("cola", bert_dir)
    groups = adamw(model, settings(weight_decay=0.1)).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    without = {name for name, value in found.items() if value == 0.0}
    assert without == {name for name in found if name.endswith("bias") or "LayerNorm" in name}
    assert found["classifier.weight"] == found["bert.pooler.dense.weight"] == 0.1
    assert isinstance(groups[0]["params"][0], torch.nn.Parameter)
