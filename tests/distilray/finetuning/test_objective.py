from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distilray.config.glue import TaskDistillationConfig
from distilray.finetuning.features import collate
from distilray.finetuning.objective import (
    FineTuningObjective,
    StepBatch,
    adamw,
    evaluation_steps,
    learning_rate_factor,
    predict,
    row_losses,
)
from distilray.training.process_group import Workers
from tests.distilray.training.threaded_workers import run_together
from tests.tiny.tasks import classifier, features, settings

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
LABELS = torch.tensor([0, 2, 1, 1, 0])


def distillation(**values):
    return TaskDistillationConfig(teacher_run_dir="unused", **values)


def logits(seed):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


def test_the_loss_of_a_row_is_its_cross_entropy_or_squared_error():
    rows = zip(logits(1).numpy(), LABELS, strict=True)
    expected = [-np.log(np.exp(row[label]) / np.exp(row).sum()) for row, label in rows]
    np.testing.assert_allclose(row_losses(logits(1), LABELS, None, None), expected, rtol=1e-5)
    scores = row_losses(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 3.5]), None, None)
    assert scores.tolist() == [4.0, 0.25]


def test_a_teacher_adds_its_softened_divergence_or_squared_difference():
    student, teacher = logits(1), logits(2)
    q, p = (torch.softmax(values / 3.0, dim=1) for values in (student, teacher))
    expected = 0.75 * row_losses(student, LABELS, None, None) + 0.25 * 9.0 * (p * (p / q).log()).sum(dim=1)
    losses = row_losses(student, LABELS, teacher, distillation(temperature=3.0, alpha=0.25))
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(row_losses(student, LABELS, student, distillation(alpha=1.0)), torch.zeros(5))
    scores = [torch.tensor([[1.0]]), torch.tensor([4.0]), torch.tensor([[2.0]])]
    assert row_losses(*scores, distillation(alpha=0.25)).tolist() == [0.75 * 9.0 + 0.25]


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_outputs_are_in_the_order_of_rows_on_any_number_of_workers(request, name):
    model_dir = request.getfixturevalue(f"{name}_dir")
    task, model = features("mnli", model_dir), classifier("mnli", model_dir)
    rows = task.dev["dev_matched"]

    def outputs(workers):
        return predict(model, rows, pad_id=task.pad_id, workers=workers, batch_size=4, **CPU)

    alone = outputs(None)
    assert alone.shape == (9, 3)
    for shared in [*run_together(2, outputs), *run_together(5, outputs)]:
        assert np.array_equal(shared, alone)
    for row in range(len(rows)):
        batch = collate(rows, np.array([row]), task.pad_id, multiple=1)
        types = {"token_type_ids": batch.token_type_ids} if name == "bert" else {}
        single = model(batch.input_ids, attention_mask=batch.attention_mask, **types).logits
        np.testing.assert_allclose(alone[row], single[0].detach(), atol=1e-4)


@pytest.mark.parametrize("was_training", [True, False])
def test_predicting_uses_no_dropout_and_restores_the_mode(bert_dir, was_training):
    task, model = features("cola", bert_dir), classifier("cola", bert_dir, dropout=0.5).train(was_training)
    assert np.array_equal(*(predict(model, task.train, pad_id=task.pad_id, **CPU) for _ in range(2)))
    assert model.training == was_training


def test_outputs_in_bf16_are_close_to_fp32_and_returned_in_fp32(bert_dir):
    task, model = features("cola", bert_dir), classifier("cola", bert_dir)
    exact = predict(model, task.train, pad_id=task.pad_id, **CPU)
    rounded = predict(model, task.train, pad_id=task.pad_id, device=CPU["device"], dtype=torch.bfloat16)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.3


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
def test_evaluations_divide_each_epoch_and_the_last_one_is_at_its_end(rows, evaluations, expected):
    assert evaluation_steps(rows, settings(epochs=2, evaluations_per_epoch=evaluations)) == expected


EIGHTHS = [number / 8 for number in range(8, -1, -1)]


@pytest.mark.parametrize(
    ("schedule", "decay"),
    [("linear", EIGHTHS), ("cosine", [0.5 - 0.5 * np.cos(np.pi * part) for part in EIGHTHS])],
)
def test_the_learning_rate_warms_up_and_decays(schedule, decay):
    values = settings(schedule=schedule, warmup_fraction=0.2)
    factors = [learning_rate_factor(step, 10, values) for step in range(11)]
    assert factors == pytest.approx([0.5, 1.0, *decay])


def test_biases_and_layer_norms_do_not_decay(bert_dir):
    model = classifier("cola", bert_dir)
    groups = adamw(model, settings(weight_decay=0.1)).param_groups
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[parameter] == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1)


def test_each_step_and_each_worker_draws_its_own_dropout():
    cpu = torch.device("cpu")
    batch = StepBatch(SimpleNamespace(to=lambda _: None), torch.ones(1), None, np.arange(1), size=1)

    def drawn(step, rank):
        objective = FineTuningObjective(lambda *_: torch.rand(1), 1, Workers(rank, 2, cpu), cpu)
        return float(objective(step, batch)[0])

    numbers = [drawn(step, rank) for step in (0, 1) for rank in (0, 1)]
    assert len(set(numbers)) == 4
    assert numbers[0] == drawn(0, 0)
