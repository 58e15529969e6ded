import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distilray.config.glue import TaskDistillationConfig
from distilray.errors import InputError
from distilray.finetuning import classifier_training
from distilray.finetuning.classifier import load_fine_tuned
from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.finetuning.fine_tune_state import read_evaluations
from distilray.finetuning.metrics import majority_scores
from distilray.finetuning.objective import predict
from distilray.finetuning.tasks import TASKS
from distilray.training.checkpoint import BrokenCheckpointError
from tests.distilray.training.threaded_workers import run_together
from tests.tiny.tasks import classifier, features, settings

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
FOUR = settings(epochs=2, evaluations_per_epoch=2, batch_size=8)  # 15 rows: 4 steps, each evaluated


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def task(bert_dir):
    return features("cola", bert_dir)


@pytest.fixture(scope="module")
def train(bert_dir, task):
    """Fine-tune on CoLA, and return the result and the final weights."""

    def run(values=FOUR, *, seed=1, folder=None, rows=task, **arguments):
        model = classifier(rows.task, bert_dir, seed=seed, dropout=values.dropout)
        folder = None if folder is None else str(folder)
        of_run = {name: arguments.pop(name) for name in ClassifierTraining.__dataclass_fields__ if name in arguments}
        found = fine_tune(ClassifierTraining(model, rows, values, seed, **CPU, **of_run), folder=folder, **arguments)
        return found, {name: value.detach().clone() for name, value in model.named_parameters()}

    return run


@pytest.fixture(scope="module")
def uncut(train):
    """Uninterrupted run."""
    return train()


@pytest.fixture
def scored(monkeypatch):
    """Replace the scores of evaluations by given ones, and count evaluations."""

    def use(scores):
        left = iter(scores)
        monkeypatch.setattr(ClassifierTraining, "dev_scores", lambda _: {"matthews": 0.0, "score": next(left)})

    return use


def without_time(evaluations):
    return [replace(one, seconds=0.0) for one in evaluations]


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopping_at(number):
    def report(evaluation):
        if evaluation.number == number:
            raise KilledError
        return True

    return report


def ticking():
    return itertools.count().__next__


def test_evaluations_say_where_they_are(train):
    found, _ = train(clock=ticking())
    assert [(one.number, one.step, one.epoch) for one in found.evaluations] == [
        (1, 1, 0.5),
        (2, 2, 1.0),
        (3, 3, 1.5),
        (4, 4, 2.0),
    ]
    assert (found.planned, found.end_reason) == (4, "complete")
    assert all(list(one.scores) == ["matthews", "score"] for one in found.evaluations)
    assert sorted({one.seconds for one in found.evaluations}) == [one.seconds for one in found.evaluations]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(train, uncut):
    (first, weights), (again, same), (other, different) = uncut, train(), train(seed=2)
    assert without_time(first.evaluations) == without_time(again.evaluations)
    assert are_equal(weights, same)
    assert not are_equal(weights, different)
    assert first.evaluations[0].train_loss != other.evaluations[0].train_loss


def test_the_random_state_before_does_not_matter(train, uncut):
    torch.manual_seed(1234)
    assert are_equal(train()[1], uncut[1])


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(train, uncut, tmp_path, number):
    whole, weights = uncut
    with pytest.raises(KilledError):
        train(folder=tmp_path, report=stopping_at(number))
    reported = []
    found, same = train(folder=tmp_path, report=lambda one: reported.append(one.number) or True)
    assert without_time(found.evaluations) == without_time(whole.evaluations)
    assert without_time([found.best]) == without_time([whole.best])
    assert are_equal(weights, same)
    # Evaluations that have a checkpoint from before the interruption are not reported again.
    assert reported == [one for one in (1, 2, 3, 4) if one >= number]


def test_a_run_that_is_interrupted_again_and_again_ends_as_one_that_was_not(train, uncut, tmp_path):
    whole, weights = uncut
    for number in (1, 3, 3):
        with pytest.raises(KilledError):
            train(folder=tmp_path, report=stopping_at(number))
    found, same = train(folder=tmp_path)
    assert without_time(found.evaluations) == without_time(whole.evaluations)
    assert are_equal(weights, same)


def test_a_run_that_is_interrupted_between_evaluations_ends_as_one_that_was_not(train, tmp_path):
    def on_step(step, steps):
        if step == 3:
            raise KilledError

    values = FOUR.model_copy(update={"evaluations_per_epoch": 1})
    whole, weights = train(values)
    with pytest.raises(KilledError):
        train(values, folder=tmp_path, on_step=on_step)
    found, same = train(values, folder=tmp_path)
    assert without_time(found.evaluations) == without_time(whole.evaluations)
    assert are_equal(weights, same)


def test_the_best_weights_survive_an_interruption(train, tmp_path, scored):
    scored([0.5, 0.9, 0.1, 0.2])
    whole, weights = train()
    scored([0.5, 0.9, 0.1])
    with pytest.raises(KilledError):
        train(folder=tmp_path, report=stopping_at(3))
    scored([0.1, 0.2])
    found, same = train(folder=tmp_path)
    assert whole.best.number == found.best.number == 2
    assert are_equal(weights, same)


def test_only_the_newest_and_the_best_checkpoint_are_kept(train, tmp_path, scored):
    scored([0.5, 0.9, 0.1, 0.2])
    with pytest.raises(KilledError):
        train(folder=tmp_path, report=stopping_at(4))
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["step-0000002", "step-0000003"]


def test_time_before_an_interruption_counts_and_time_between_does_not(train, tmp_path):
    with pytest.raises(KilledError):
        train(folder=tmp_path, report=stopping_at(3), clock=itertools.count(0, 10).__next__)
    second = read_evaluations(str(tmp_path))[-1].seconds
    found, _ = train(folder=tmp_path, clock=itertools.count(5000).__next__)
    assert second < found.evaluations[2].seconds < second + 10
    assert [one.seconds for one in found.evaluations] == sorted(one.seconds for one in found.evaluations)


def test_a_finished_run_is_not_trained_again(train, tmp_path, monkeypatch):
    whole, weights = train(folder=tmp_path)
    monkeypatch.setattr(classifier_training, "train", None)
    found, same = train(folder=tmp_path)
    assert found == whole
    assert are_equal(weights, same)


def test_a_finished_folder_holds_the_best_model_and_no_checkpoints(train, tmp_path, task):
    found, weights = train(folder=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"evaluations.json", "model"}
    model = load_fine_tuned(str(tmp_path / "model"), TASKS["cola"])
    assert are_equal(dict(model.named_parameters()), weights)
    assert read_evaluations(str(tmp_path)) == found.evaluations
    assert predict(model, task.dev["dev"], pad_id=task.pad_id, **CPU).shape == (9, 2)


def test_a_folder_without_evaluations_has_none(tmp_path):
    assert read_evaluations(str(tmp_path / "nothing")) == []


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("change", ["seed", "learning_rate", "data"])
def test_the_folder_of_another_fine_tuning_is_refused(train, tmp_path, task, bert_dir, is_finished, change):
    if is_finished:
        train(folder=tmp_path)
    else:
        with pytest.raises(KilledError):
            train(folder=tmp_path, report=stopping_at(2))
    other = {
        "seed": {"seed": 2},
        "learning_rate": {"values": FOUR.model_copy(update={"learning_rate": 1e-3})},
        "data": {"rows": features("cola", bert_dir, train=16)},
    }
    with pytest.raises(
        BrokenCheckpointError, match=r"evaluations.json: belongs to a fine-tuning run with other settings"
    ):
        train(folder=tmp_path, **other[change])


def test_which_other_seeds_the_task_has_does_not_matter(train, tmp_path):
    whole, _ = train(folder=tmp_path)
    assert train(FOUR.model_copy(update={"seeds": [1, 7]}), folder=tmp_path)[0] == whole


def test_after_damage_to_the_newest_checkpoint_the_one_before_is_taken(train, tmp_path, scored):
    scored([0.9, 0.1, 0.2])
    with pytest.raises(KilledError):
        train(folder=tmp_path, report=stopping_at(3))
    flip(tmp_path / "checkpoints/step-0000002/model.safetensors")
    notices = []
    scored([0.1, 0.2, 0.95])
    found, same = train(folder=tmp_path, notice=notices.append)
    assert "step-0000002 IS BROKEN" in notices[0]
    assert [one.number for one in found.evaluations] == [1, 2, 3, 4]
    assert found.best.number == 4
    scored([0.0, 0.0, 0.0, 1.0])
    assert are_equal(same, train()[1])


def test_without_the_best_weights_the_run_starts_over(train, tmp_path, scored):
    scored([0.9, 0.1, 0.2])
    with pytest.raises(KilledError):
        train(folder=tmp_path, report=stopping_at(3))
    flip(tmp_path / "checkpoints/step-0000001/model.safetensors")
    notices = []
    scored([0.9, 0.1])
    with pytest.raises(KilledError):
        train(folder=tmp_path, notice=notices.append, report=stopping_at(2))
    assert "step-0000001 IS BROKEN: starting over" in notices[0]
    scored([0.1, 0.2, 0.3])
    found, _ = train(folder=tmp_path, notice=notices.append)
    assert [one.number for one in found.evaluations] == [1, 2, 3, 4]
    assert len(notices) == 1


def flip(file: Path):
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(data)


def test_the_model_ends_with_the_weights_of_its_best_evaluation(train, scored):
    values = FOUR.model_copy(update={"metric": "score"})
    ends = []
    for number in (1, 2, 3, 4):
        scored([float(one == number) for one in (1, 2, 3, 4)])
        found, weights = train(values)
        assert found.best.number == number
        ends.append(weights)
    assert not any(are_equal(*pair) for pair in itertools.combinations(ends, 2))
    scored([0.3, 0.7, 0.7, 0.7])
    found, weights = train(values)
    assert found.best.number == 2  # the earlier one on a tie
    assert are_equal(weights, ends[1])


def test_the_metric_of_the_recipe_decides_what_is_best(train, monkeypatch):
    left = iter([{"matthews": 0.1, "score": 0.9}, *[{"matthews": 0.2, "score": 0.1}] * 3])
    monkeypatch.setattr(ClassifierTraining, "dev_scores", lambda _: next(left))
    assert train(FOUR.model_copy(update={"metric": "matthews"}))[0].best.number == 2


@pytest.mark.parametrize(
    ("scores", "patience", "ended", "evaluations"),
    [
        ([0.5, 0.4, 0.5], 2, "patience", 3),
        ([0.5, 0.6, 0.1, 0.1], 2, "complete", 4),
        ([0.5, 0.1], 1, "patience", 2),
        ([0.1, 0.2, 0.3, 0.4], 1, "complete", 4),
        ([0.5, 0.1, 0.1, 0.1], None, "complete", 4),
    ],
)
def test_training_stops_when_patience_is_at_its_end(train, scored, scores, patience, ended, evaluations):
    scored(scores)
    found, _ = train(FOUR.model_copy(update={"patience": patience}))
    assert (found.end_reason, len(found.evaluations), found.planned) == (ended, evaluations, 4)


def test_patience_counts_evaluations_before_an_interruption(train, scored, tmp_path):
    values = FOUR.model_copy(update={"patience": 2})
    scored([0.5, 0.4, 0.3])
    with pytest.raises(KilledError):
        train(values, folder=tmp_path, report=stopping_at(3))
    scored([0.3])
    assert train(values, folder=tmp_path)[0].end_reason == "patience"


def test_who_is_reported_to_can_stop_the_run(train, tmp_path):
    found, weights = train(report=lambda one: one.number < 2, folder=tmp_path)
    assert (found.end_reason, len(found.evaluations)) == ("stopped", 2)
    assert train(folder=tmp_path)[0] == found
    assert are_equal(load_file(tmp_path / "model/model.safetensors"), weights)


def test_a_run_whose_time_is_over_ends_where_it_is(train):
    found, _ = train(max_seconds=4, clock=ticking())
    assert found.end_reason == "time"
    assert 1 < len(found.evaluations) < 4


def test_a_run_without_time_is_evaluated_once(train):
    found, _ = train(max_seconds=0.0)
    assert (found.end_reason, found.best.step, found.best.number) == ("time", 1, 1)


def test_steps_are_reported(train):
    reported = []
    train(on_step=lambda step, steps: reported.append((step, steps)))
    assert reported == [(step, 4) for step in range(1, 5)]


def test_the_loss_of_training_is_the_mean_over_rows(train, task):
    values = settings(epochs=1, batch_size=8, learning_rate=1e-12, dropout=0.0)
    found, _ = train(values)
    whole, _ = train(values.model_copy(update={"batch_size": 15}))
    assert found.evaluations[0].train_loss == pytest.approx(whole.evaluations[0].train_loss, rel=1e-5)


def test_dropout_of_the_recipe_applies(train):
    losses = [
        train(settings(epochs=1, learning_rate=1e-12, dropout=dropout), seed=1)[0].evaluations[0].train_loss
        for dropout in (0.0, 0.0, 0.5)
    ]
    assert losses[0] == losses[1]
    assert abs(losses[2] - losses[0]) > 0.01


@pytest.mark.parametrize(("model", "name"), [("bert_dir", "cola"), ("distilbert_dir", "stsb")])
def test_a_small_task_is_learned(request, model, name):
    model_dir = request.getfixturevalue(model)
    task, values = TASKS[name], settings(epochs=5, learning_rate=3e-3, batch_size=16, dropout=0.0)
    rows = features(name, model_dir, train=160, dev=40)
    found = fine_tune(ClassifierTraining(classifier(name, model_dir), rows, values, 1, **CPU), folder=None)
    majority = majority_scores(task, rows.train.labels, {"dev": rows.dev["dev"].labels})
    assert found.best.scores["score"] > majority["score"] + 0.6
    assert found.evaluations[-1].train_loss < 0.5 * found.evaluations[0].train_loss


def test_both_dev_sets_of_mnli_are_scored(bert_dir):
    rows = features("mnli", bert_dir)
    found = fine_tune(ClassifierTraining(classifier("mnli", bert_dir), rows, settings(epochs=1), 1, **CPU), folder=None)
    assert list(found.best.scores) == ["accuracy_m", "accuracy_mm", "score"]


def test_a_student_learns_what_its_teacher_says_and_not_the_labels(train, bert_dir):
    rows = features("cola", bert_dir, train=160, dev=40)
    taught = 6.0 * np.eye(2, dtype=np.float32)[1 - rows.train.labels]
    distillation = TaskDistillationConfig(teacher_run_dir="unused", alpha=1.0, temperature=1.0)
    values = settings(epochs=5, learning_rate=3e-3, batch_size=16, dropout=0.0)
    found, _ = train(values, rows=rows, teacher_outputs=taught, distillation=distillation)
    assert found.evaluations[-1].scores["matthews"] < -0.6


def test_a_run_with_a_teacher_is_another_run(train, task, tmp_path):
    taught = {"teacher_outputs": np.eye(2, dtype=np.float32)[task.train.labels]}
    distillation = TaskDistillationConfig(teacher_run_dir="here", alpha=0.5)
    whole, _ = train(folder=tmp_path, distillation=distillation, **taught)
    on_step = distillation.model_copy(update={"teacher_run_dir": "elsewhere"})
    assert train(folder=tmp_path, distillation=on_step, **taught)[0] == whole
    with pytest.raises(BrokenCheckpointError):
        train(folder=tmp_path)


def test_a_gradient_that_is_not_finite_ends_the_run(train):
    def on_step(step, steps):
        raise AssertionError("a step was taken")

    values = settings()
    odd = {"teacher_outputs": np.full((15, 2), np.nan, np.float32)}
    with pytest.raises(RuntimeError, match=r"step 1: gradient norm is nan at learning rate 0.002; lower the rate"):
        train(values, distillation=TaskDistillationConfig(teacher_run_dir="unused"), on_step=on_step, **odd)


def test_a_length_that_the_model_cannot_read_is_refused(train):
    with pytest.raises(InputError, match=r"max_length: 128 exceeds the model's limit of 48 tokens; set 48 or less"):
        train(settings(max_length=128))


def test_the_record_is_plain_json(train, tmp_path):
    train(folder=tmp_path)
    record = json.loads((tmp_path / "evaluations.json").read_text())
    assert (record["ended"], record["planned"], len(record["evaluations"])) == ("complete", 4, 4)


PLAIN = FOUR.model_copy(update={"dropout": 0.0, "batch_size": 7})  # an epoch has two batches of 7 and one of 1


@pytest.mark.parametrize("size", [2, 3])
def test_several_workers_train_as_one_does(train, size):
    alone, _ = train(PLAIN)
    results = run_together(size, lambda workers: train(PLAIN, workers=workers))
    for found, shared in results:
        losses, expected = ([one.train_loss for one in run.evaluations] for run in (found, alone))
        assert losses == pytest.approx(expected, abs=1e-5)
        assert are_equal(shared, results[0][1])


def test_several_workers_decide_the_same(train, tmp_path):
    def work(workers):
        def report(one):
            return not (workers.rank == 1 and one.number == 3)

        return train(PLAIN, workers=workers, report=report, folder=tmp_path, max_seconds=1e6)[0]

    ends = run_together(2, work)
    assert [one.end_reason for one in ends] == ["stopped"] * 2
    assert [len(one.evaluations) for one in ends] == [3, 3]


def test_several_workers_end_when_the_time_of_one_is_over(train):
    def work(workers):
        clock = itertools.count(0, 10 * workers.rank).__next__
        return train(PLAIN, workers=workers, max_seconds=4, clock=clock)[0]

    assert [one.end_reason for one in run_together(2, work)] == ["time"] * 2


def test_several_workers_resume_from_the_checkpoint_of_the_first(train, tmp_path):
    whole = run_together(2, lambda workers: train(PLAIN, workers=workers))
    with pytest.raises(KilledError):
        run_together(2, lambda workers: train(PLAIN, workers=workers, folder=tmp_path, report=stopping_at(3)))
    again = run_together(2, lambda workers: train(PLAIN, workers=workers, folder=tmp_path))
    for (found, weights), (expected, wanted) in zip(again, whole, strict=True):
        assert without_time(found.evaluations) == without_time(expected.evaluations)
        assert are_equal(weights, wanted)
