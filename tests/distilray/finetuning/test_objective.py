from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distilray.config.glue import TaskDistillationConfig
from distilray.finetuning.features import collate
from distilray.finetuning.metrics import predictions
from distilray.finetuning.objective import (
    FineTuningObjective,
    StepBatch,
    adamw,
    evaluation_steps,
    learning_rate_factor,
    predict,
    row_losses,
)
from distilray.finetuning.tasks import TASKS
from distilray.training.process_group import Workers
from tests.distilray.training.threaded_workers import run_together
from tests.tiny.tasks import classifier, features, settings

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def distillation(**values):
    return TaskDistillationConfig(teacher_run_dir="unused", **values)


def logits(seed, rows=5, outputs=3):
    return torch.randn(rows, outputs, generator=torch.Generator().manual_seed(seed))


def test_the_loss_of_classes_is_the_cross_entropy():
    outputs, labels = logits(1), torch.tensor([0, 2, 1, 1, 0])
    expected = [
        -np.log(np.exp(row[label]) / np.exp(row).sum()) for row, label in zip(outputs.numpy(), labels, strict=True)
    ]
    np.testing.assert_allclose(row_losses(outputs, labels, None, None), expected, rtol=1e-5)


def test_the_loss_of_scores_is_the_squared_error():
    found = row_losses(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 3.5]), None, None)
    assert found.tolist() == [4.0, 0.25]


def test_the_teachers_part_is_the_divergence_of_softened_classes():
    student, teacher, labels = logits(1), logits(2), torch.tensor([0, 2, 1, 1, 0])
    own = row_losses(student, labels, None, None)
    q, p = (torch.softmax(values / 3.0, dim=1) for values in (student, teacher))
    divergence = (p * (p / q).log()).sum(dim=1)
    found = row_losses(student, labels, teacher, distillation(temperature=3.0, alpha=0.25))
    torch.testing.assert_close(found, 0.75 * own + 0.25 * 9.0 * divergence)


def test_the_teachers_part_of_scores_is_the_squared_difference():
    student, teacher, labels = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([4.0])
    assert row_losses(student, labels, teacher, distillation(alpha=0.25)).tolist() == [0.75 * 9.0 + 0.25]


def test_a_student_that_equals_its_teacher_has_no_divergence():
    found = row_losses(logits(1), torch.zeros(5, dtype=torch.long), logits(1), distillation(alpha=1.0))
    torch.testing.assert_close(found, torch.zeros(5))


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_outputs_come_in_the_order_of_rows(bert_dir, distilbert_dir, name):
    model_dir = {"bert": bert_dir, "distilbert": distilbert_dir}[name]
    task = features("mnli", model_dir)
    rows, model = task.dev["dev_matched"], classifier("mnli", model_dir)
    found = predict(model, rows, pad_id=task.pad_id, batch_size=4, **CPU)
    assert found.shape == (9, 3)
    for row in range(len(rows)):
        batch = collate(rows, np.array([row]), task.pad_id, multiple=1)
        types = {"token_type_ids": batch.token_type_ids} if name == "bert" else {}
        alone = model(batch.input_ids, attention_mask=batch.attention_mask, **types).logits
        np.testing.assert_allclose(found[row], alone[0].detach(), atol=1e-4)


@pytest.mark.parametrize("was_training", [True, False])
def test_predicting_uses_no_dropout_and_leaves_the_mode_as_it_was(bert_dir, was_training):
    task, model = features("cola", bert_dir), classifier("cola", bert_dir, dropout=0.5).train(was_training)
    found = [predict(model, task.train, pad_id=task.pad_id, **CPU) for _ in range(2)]
    assert np.array_equal(*found)
    assert model.training == was_training


def test_any_number_of_workers_gives_the_very_outputs_of_one(bert_dir):
    task, model = features("rte", bert_dir), classifier("rte", bert_dir)

    def outputs(workers):
        return predict(model, task.train, pad_id=task.pad_id, workers=workers, batch_size=4, **CPU)

    alone = outputs(None)
    for shared in [*run_together(2, outputs), *run_together(5, outputs)]:
        assert np.array_equal(shared, alone)


def test_ax_is_predicted_with_the_labels_of_mnli(bert_dir):
    task = features("mnli", bert_dir, test=17)
    model = classifier("mnli", bert_dir)
    model.classifier.bias.data[2] = 100.0
    outputs = predict(model, task.test["ax"], pad_id=task.pad_id, **CPU)
    words = [TASKS["mnli"].labels[row] for row in predictions(TASKS["mnli"], outputs)]
    assert words == ["contradiction"] * 17


def test_outputs_of_bf16_are_near_those_of_fp32_and_come_in_fp32(bert_dir):
    task, model = features("cola", bert_dir), classifier("cola", bert_dir)
    exact = predict(model, task.train, pad_id=task.pad_id, **CPU)
    rounded = predict(model, task.train, pad_id=task.pad_id, device=torch.device("cpu"), dtype=torch.bfloat16)
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
def test_evaluations_divide_each_epoch_and_the_last_is_at_its_end(rows, evaluations, expected):
    assert evaluation_steps(rows, settings(epochs=2, evaluations_per_epoch=evaluations)) == expected


def shares(schedule, warmup_fraction, total=10):
    values = settings(schedule=schedule, warmup_fraction=warmup_fraction)
    return [learning_rate_factor(step, total, values) for step in range(total + 1)]


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


def test_each_step_and_each_worker_draws_dropout_of_its_own():
    cpu = torch.device("cpu")
    batch = StepBatch(SimpleNamespace(to=lambda _: None), torch.ones(1), None, rows=1)

    def drawn(step, rank):
        objective = FineTuningObjective(lambda *_: torch.rand(1), 1, Workers(rank, 2, cpu), cpu)
        return float(objective(step, batch)[0])

    numbers = [drawn(step, rank) for step in (0, 1) for rank in (0, 1)]
    assert len(set(numbers)) == 4
    assert numbers[0] == drawn(0, 0)
