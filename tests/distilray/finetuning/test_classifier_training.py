import functools
import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distilray.config.glue import TaskDistillationConfig
from distilray.errors import InputError
from distilray.finetuning import classifier_training
from distilray.finetuning.classifier import load_fine_tuned
from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.finetuning.metrics import majority_scores
from distilray.finetuning.tasks import TASKS
from distilray.training.checkpoint import BrokenCheckpointError
from tests.distilray.training.threaded_workers import run_together
from tests.tiny.tasks import classifier, features, settings

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
FOUR = settings(epochs=2, evaluations_per_epoch=2, batch_size=8)  # 15 rows: 4 steps, each evaluated
UNEVEN = settings(epochs=2, evaluations_per_epoch=2, batch_size=7, dropout=0.0)  # batches of 7, 7 and 1 rows
TEACHER = TaskDistillationConfig(teacher_run_dir="unused", alpha=1.0, temperature=1.0)


class KilledError(Exception):
    pass


def changed(**changes):
    return FOUR.model_copy(update=changes)


def stored_evaluations(folder):
    return json.loads((folder / "evaluations.json").read_bytes())["evaluations"]


@pytest.fixture(scope="module")
def task(bert_dir):
    return features("cola", bert_dir)


@pytest.fixture(scope="module")
def train(bert_dir, task):
    """Fine-tune on CoLA; return the history and the final weights."""

    def run(values=FOUR, *, seed=1, folder=None, rows=task, **options):
        model = classifier(rows.task, bert_dir, seed=seed, dropout=values.dropout)
        names = ("dtype", "workers", "teacher_outputs", "distillation")
        settings_of_run = {name: options.pop(name) for name in names if name in options}
        training = ClassifierTraining(model, rows, values, seed, **{**CPU, **settings_of_run})
        history = fine_tune(training, folder=None if folder is None else str(folder), **options)
        return history, {name: value.detach().clone() for name, value in model.named_parameters()}

    return run


@pytest.fixture(scope="module")
def uninterrupted(train):
    return train()


@pytest.fixture
def scored(monkeypatch):
    """Replace the scores of the next evaluations."""

    def use(*scores):
        remaining = iter(scores)
        monkeypatch.setattr(ClassifierTraining, "dev_scores", lambda _: {"matthews": 0.0, "score": next(remaining)})

    return use


@pytest.fixture
def interrupt(train):
    """Start a run in a folder and kill it when an evaluation is reported, before its checkpoint is written."""

    def run(folder, number, values=FOUR, **options):
        def report(evaluation):
            if evaluation.number == number:
                raise KilledError
            return True

        with pytest.raises(KilledError):
            train(values, folder=folder, report=report, **options)

    return run


def without_time(history):
    return [replace(evaluation, seconds=0.0) for evaluation in [history.best, *history.evaluations]]


def are_equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def is_same_result(first, second):
    return without_time(first[0]) == without_time(second[0]) and are_equal(first[1], second[1])


def test_evaluations_are_evenly_spaced_and_recorded(train, tmp_path):
    steps = []
    clock = itertools.count().__next__
    history, _ = train(folder=tmp_path, clock=clock, on_step=lambda step, total: steps.append((step, total)))
    positions = [(each.number, each.step, each.epoch) for each in history.evaluations]
    assert positions == [(1, 1, 0.5), (2, 2, 1.0), (3, 3, 1.5), (4, 4, 2.0)]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (history.planned, history.end_reason) == (4, "complete")
    assert all(list(each.scores) == ["matthews", "score"] for each in history.evaluations)
    seconds = [each.seconds for each in history.evaluations]
    assert seconds == sorted(set(seconds))
    record = json.loads((tmp_path / "evaluations.json").read_text())
    assert (record["ended"], record["planned"], len(record["evaluations"])) == ("complete", 4, 4)


def test_only_the_seed_changes_the_result(train, uninterrupted):
    torch.manual_seed(1234)
    assert is_same_result(train(), uninterrupted)
    history, weights = train(seed=2)
    assert not are_equal(weights, uninterrupted[1])
    assert history.evaluations[0].train_loss != uninterrupted[0].evaluations[0].train_loss


@pytest.mark.parametrize("interruptions", [[1], [2], [4], [1, 3, 3]], ids=str)
def test_an_interrupted_run_resumes_to_the_same_result(train, interrupt, uninterrupted, tmp_path, interruptions):
    for number in interruptions:
        interrupt(tmp_path, number)
    reported = []
    assert is_same_result(
        train(folder=tmp_path, report=lambda each: reported.append(each.number) or True), uninterrupted
    )
    # Evaluations that have a checkpoint from before the interruption are not reported again.
    assert reported == list(range(interruptions[-1], 5))


def test_a_run_in_fp16_learns_and_resumes_with_its_loss_scale(train, interrupt, bert_dir, tmp_path, monkeypatch):
    too_high = 2.0**21
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=too_high))
    values = settings(epochs=5, learning_rate=3e-3, batch_size=16, dropout=0.0)
    options = {"rows": features("cola", bert_dir, train=160, dev=40), "dtype": torch.float16}
    expected = train(values, **options)
    losses = [each.train_loss for each in expected[0].evaluations]
    assert losses[-1] < 0.8 * losses[0]
    interrupt(tmp_path, 2, values, **options)
    scaler = json.loads((tmp_path / "checkpoints/step-0000010/state.json").read_text())["scaler"]
    assert 1.0 < scaler["scale"] < too_high
    assert is_same_result(train(values, folder=tmp_path, **options), expected)


def test_only_the_newest_and_the_best_checkpoint_are_kept_and_the_best_weights_are_restored(
    train, interrupt, scored, tmp_path
):
    scored(0.5, 0.9, 0.1, 0.2)
    expected = train()
    assert expected[0].best.number == 2
    scored(0.5, 0.9, 0.1, 0.2)
    interrupt(tmp_path, 4)
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["step-0000002", "step-0000003"]
    scored(0.2)
    assert is_same_result(train(folder=tmp_path), expected)


def test_the_training_time_excludes_the_time_of_an_interruption(train, interrupt, tmp_path):
    interrupt(tmp_path, 3, clock=itertools.count(0, 10).__next__)
    before = stored_evaluations(tmp_path)[-1]["seconds"]
    history, _ = train(folder=tmp_path, clock=itertools.count(5000).__next__)
    assert before < history.evaluations[2].seconds < before + 10
    assert [each.seconds for each in history.evaluations] == sorted(each.seconds for each in history.evaluations)


def test_a_finished_run_contains_the_best_model_and_is_not_trained_again(train, tmp_path, monkeypatch):
    result = train(folder=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["evaluations.json", "model"]
    model = load_fine_tuned(str(tmp_path / "model"), TASKS["cola"])
    assert are_equal(dict(model.named_parameters()), result[1])
    assert stored_evaluations(tmp_path) == [asdict(each) for each in result[0].evaluations]
    monkeypatch.setattr(classifier_training, "train", None)
    history, weights = train(changed(seeds=[1, 7]), folder=tmp_path)  # other seeds of the task have their own runs
    assert history == result[0]
    assert are_equal(weights, result[1])


@pytest.mark.parametrize("is_finished", [False, True])
def test_the_folder_of_another_fine_tuning_run_is_refused(train, interrupt, tmp_path, task, bert_dir, is_finished):
    outputs = {"teacher_outputs": np.eye(2, dtype=np.float32)[task.train.labels]}
    if is_finished:
        train(folder=tmp_path, distillation=TEACHER, **outputs)
        moved = TEACHER.model_copy(update={"teacher_run_dir": "moved"})
        train(folder=tmp_path, distillation=moved, **outputs)
    else:
        interrupt(tmp_path, 2, distillation=TEACHER, **outputs)
    same = {"distillation": TEACHER, **outputs}
    others = {
        "seed": {"seed": 2, **same},
        "setting": {"values": changed(learning_rate=1e-3), **same},
        "data": {"rows": features("cola", bert_dir, train=15, dev=10), **same},
        "alpha": {"distillation": TEACHER.model_copy(update={"alpha": 0.5}), **outputs},
        "no teacher": {},
    }
    for other in others.values():
        with pytest.raises(BrokenCheckpointError, match=r"evaluations.json: belongs to .* other settings or data"):
            train(folder=tmp_path, **other)


OTHER_SETTINGS = {
    **{"learning_rate": 1e-3, "batch_size": 4, "epochs": 3, "schedule": "cosine", "warmup_fraction": 0.3},
    **{"weight_decay": 0.3, "max_grad_norm": 0.3, "dropout": 0.3, "max_length": 16, "evaluations_per_epoch": 1},
    **{"patience": 5, "metric": "matthews", "max_train_examples": 7, "seeds": [7]},
}


def test_every_setting_but_the_other_seeds_identifies_a_run(task):
    def identity(values, seed=1):
        return ClassifierTraining(None, task, values, seed, **CPU).identity()

    identities = {name: identity(changed(**{name: value})) for name, value in OTHER_SETTINGS.items()}
    assert sorted(identities) == sorted(type(FOUR).model_fields)
    assert identities.pop("seeds") == identity(FOUR) != identity(FOUR, seed=2)
    assert len({*identities.values(), identity(FOUR)}) == len(OTHER_SETTINGS)


def damage(folder, step):
    file = folder / f"checkpoints/step-{step:07d}/model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(train, interrupt, scored, tmp_path):
    scored(0.9, 0.1, 0.2)
    interrupt(tmp_path, 3)
    damage(tmp_path, step=2)
    notices = []
    scored(0.1, 0.2, 0.95)
    result = train(folder=tmp_path, notice=notices.append)
    assert "step-0000002 IS BROKEN" in notices[0]
    scored(0.9, 0.1, 0.2, 0.95)
    assert is_same_result(result, train())


def test_a_run_whose_best_weights_are_damaged_starts_over(train, interrupt, scored, tmp_path):
    scored(0.9, 0.1, 0.2)
    interrupt(tmp_path, 3)
    damage(tmp_path, step=1)
    notices = []
    scored(0.9, 0.1)
    interrupt(tmp_path, 2, notice=notices.append)
    assert "step-0000001 IS BROKEN: starting over" in notices[0]
    scored(0.1, 0.2, 0.3)
    history, _ = train(folder=tmp_path, notice=notices.append)
    assert [each.number for each in history.evaluations] == [1, 2, 3, 4]
    assert len(notices) == 1


def test_the_model_ends_with_the_weights_of_its_best_evaluation(train, scored):
    weights = {}
    for number in (1, 2, 3, 4):
        scored(*(float(each == number) for each in (1, 2, 3, 4)))
        history, weights[number] = train()
        assert history.best.number == number
    assert not any(are_equal(*pair) for pair in itertools.combinations(weights.values(), 2))
    scored(0.3, 0.7, 0.7, 0.7)
    history, tied = train()
    assert history.best.number == 2  # the earliest one of equal scores
    assert are_equal(tied, weights[2])


def test_the_metric_of_the_recipe_determines_the_best_evaluation(train, monkeypatch):
    scores = iter([{"matthews": 0.1, "score": 0.9}, *[{"matthews": 0.2, "score": 0.1}] * 3])
    monkeypatch.setattr(ClassifierTraining, "dev_scores", lambda _: next(scores))
    assert train(changed(metric="matthews"))[0].best.number == 2


@pytest.mark.parametrize(
    ("scores", "patience", "reason", "evaluations"),
    [
        ([0.5, 0.4, 0.5], 2, "patience", 3),
        ([0.5, 0.6, 0.1, 0.1], 2, "complete", 4),
        ([0.5, 0.1], 1, "patience", 2),
        ([0.1, 0.2, 0.3, 0.4], 1, "complete", 4),
        ([0.5, 0.1, 0.1, 0.1], None, "complete", 4),
    ],
)
def test_training_stops_when_patience_is_exhausted(train, scored, scores, patience, reason, evaluations):
    scored(*scores)
    history, _ = train(changed(patience=patience))
    assert (history.end_reason, len(history.evaluations), history.planned) == (reason, evaluations, 4)


def test_patience_counts_evaluations_before_an_interruption(train, interrupt, scored, tmp_path):
    scored(0.5, 0.4, 0.3)
    interrupt(tmp_path, 3, changed(patience=2))
    scored(0.3)
    assert train(changed(patience=2), folder=tmp_path)[0].end_reason == "patience"


def test_a_report_can_stop_the_run(train, tmp_path):
    history, weights = train(report=lambda each: each.number < 2, folder=tmp_path)
    assert (history.end_reason, len(history.evaluations)) == ("stopped", 2)
    assert train(folder=tmp_path)[0] == history
    assert are_equal(load_file(tmp_path / "model/model.safetensors"), weights)


@pytest.mark.parametrize(("max_seconds", "evaluations"), [(0.0, [1]), (4, [1, 2, 3])])
def test_a_run_ends_at_its_time_limit_but_is_evaluated_at_least_once(train, max_seconds, evaluations):
    history, _ = train(max_seconds=max_seconds, clock=itertools.count().__next__)
    assert (history.end_reason, [each.step for each in history.evaluations]) == ("time", evaluations)


def test_the_training_loss_is_the_mean_over_rows_with_the_dropout_of_the_recipe(train):
    def loss(batch_size, dropout):
        values = settings(epochs=1, batch_size=batch_size, learning_rate=1e-12, dropout=dropout)
        return train(values)[0].evaluations[0].train_loss

    assert loss(8, dropout=0.0) == pytest.approx(loss(15, dropout=0.0), rel=1e-5)
    assert abs(loss(8, dropout=0.5) - loss(8, dropout=0.0)) > 0.01


@pytest.mark.parametrize(("model", "name"), [("bert_dir", "cola"), ("distilbert_dir", "stsb")])
def test_a_small_task_is_learned(request, model, name):
    model_dir = request.getfixturevalue(model)
    rows = features(name, model_dir, train=160, dev=40)
    values = settings(epochs=5, learning_rate=3e-3, batch_size=16, dropout=0.0)
    history = fine_tune(ClassifierTraining(classifier(name, model_dir), rows, values, 1, **CPU), folder=None)
    majority = majority_scores(TASKS[name], rows.train.labels, rows.dev_labels)
    assert history.best.scores["score"] > majority["score"] + 0.6
    assert history.evaluations[-1].train_loss < 0.5 * history.evaluations[0].train_loss


def test_both_dev_sets_of_mnli_are_scored(train, bert_dir):
    history, _ = train(settings(epochs=1), rows=features("mnli", bert_dir))
    assert list(history.best.scores) == ["accuracy_m", "accuracy_mm", "score"]


def test_a_student_learns_the_outputs_of_its_teacher_instead_of_the_labels(train, bert_dir):
    rows = features("cola", bert_dir, train=160, dev=40)
    opposite = 6.0 * np.eye(2, dtype=np.float32)[1 - rows.train.labels]
    values = settings(epochs=5, learning_rate=3e-3, batch_size=16, dropout=0.0)
    history, _ = train(values, rows=rows, teacher_outputs=opposite, distillation=TEACHER)
    assert history.evaluations[-1].scores["matthews"] < -0.6


def test_a_gradient_that_is_not_finite_ends_the_run_before_its_step(train):
    steps = []
    options = {"teacher_outputs": np.full((15, 2), np.nan, np.float32), "distillation": TEACHER}
    with pytest.raises(RuntimeError, match=r"step 1: gradient norm is nan at learning rate 0.002; lower the rate"):
        train(settings(), on_step=lambda *step: steps.append(step), **options)
    assert steps == []


def test_more_tokens_than_the_model_reads_are_refused(train):
    with pytest.raises(InputError, match=r"max_length: 128 exceeds the model's limit of 48 tokens; set 48 or less"):
        train(settings(max_length=128))


@pytest.mark.parametrize("size", [2, 3])
def test_several_workers_train_like_one_and_resume_together(train, interrupt, tmp_path, size):
    alone, _ = train(UNEVEN)
    results = run_together(size, lambda workers: train(UNEVEN, workers=workers))
    for history, weights in results:
        losses, expected = ([each.train_loss for each in run.evaluations] for run in (history, alone))
        assert losses == pytest.approx(expected, abs=1e-5)
        assert are_equal(weights, results[0][1])
    run_together(size, lambda workers: interrupt(tmp_path, 3, UNEVEN, workers=workers))
    resumed = run_together(size, lambda workers: train(UNEVEN, workers=workers, folder=tmp_path))
    assert all(is_same_result(*pair) for pair in zip(resumed, results, strict=True))


def test_several_workers_stop_together(train, tmp_path):
    def stopped(workers):
        def report(evaluation):
            return not (workers.rank == 1 and evaluation.number == 3)

        return train(UNEVEN, workers=workers, report=report, folder=tmp_path, max_seconds=1e6)[0]

    def out_of_time(workers):
        clock = itertools.count(0, 10 * workers.rank).__next__
        return train(UNEVEN, workers=workers, max_seconds=4, clock=clock)[0]

    ends = [(each.end_reason, len(each.evaluations)) for each in run_together(2, stopped)]
    assert ends == [("stopped", 3), ("stopped", 3)]
    assert [each.end_reason for each in run_together(2, out_of_time)] == ["time", "time"]
