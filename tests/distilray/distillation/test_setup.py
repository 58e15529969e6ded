import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from distilray.config.distillation import DistillConfig, LossConfig
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import train_loop
from distilray.pretraining_data.tokenizer import read_tokenizer

VALUES = {
    "run_dir": "unused",
    "batch_size": 16,
    "micro_batch_size": 5,
    "precision": "fp32",
    "dropout": 0.0,
    "optimizer": {"learning_rate": 5e-3},
    "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
    "intervals": {"log_every_steps": 1, "checkpoint_every_steps": 1000},
}


def create_and_keep(config, *, kept):
    """As the trainer creates the models; the trained one stays reachable for the test."""
    student, teacher = create_student_and_teacher(config)
    kept.append(student)
    return student, teacher


def fit(teacher_dir, shards_dir, folder, steps, losses=None, run=None, **changes):
    """Runs the loop in this process, in a folder of its own; returns the rows of its log and the trained model."""
    run = run or Path(tempfile.mkdtemp(dir=folder))
    values = {**VALUES, "teacher_dir": teacher_dir, "shards_dir": shards_dir, "max_steps": steps, **changes}
    # Only workers of Ray Train can ask about preemptions.
    values["intervals"] = {"poll_preemption_every_steps": steps + 1, **values["intervals"]}
    kept: list[torch.nn.Module] = []
    settings = LoopSettings(
        config=DistillConfig.model_validate(values),
        losses=losses or LossConfig(),
        create_models=functools.partial(create_and_keep, kept=kept),
        tokenizer_json=read_tokenizer(teacher_dir),
        total_steps=steps,
        run_uri=str(run),
    )
    train_loop(settings)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rows, kept[0]


@pytest.fixture
def loop(teacher_dir, shards_dir, tmp_path):
    return functools.partial(fit, teacher_dir, shards_dir, tmp_path)


def assert_same_weights(first, second, **tolerance):
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, **{"rtol": 0, "atol": 0, **tolerance}, msg=name)


ALONE = {
    "ce": LossConfig(alpha_mlm=0.0, alpha_cos=0.0),
    "mlm": LossConfig(alpha_ce=0.0, alpha_cos=0.0),
    "cos": LossConfig(alpha_ce=0.0, alpha_mlm=0.0),
}


@pytest.mark.parametrize(("name", "losses"), [("loss", LossConfig()), *ALONE.items()])
def test_the_loss_falls_and_so_does_each_term_when_it_is_the_only_one(loop, name, losses):
    values = [row[name] for row in loop(30, losses=losses)[0]]
    assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])


def test_the_log_has_a_row_at_the_rhythm_and_one_at_the_end(loop):
    rows, _ = loop(7, intervals={"log_every_steps": 3})
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert {row["total_steps"] for row in rows} == {7}
    assert all(row["tokens_per_s"] > 0 and row["grad_norm"] > 0 for row in rows)


def test_the_logged_loss_is_the_weighted_sum_of_the_logged_terms(loop):
    rows, _ = loop(3, losses=LossConfig(alpha_ce=3.0, alpha_mlm=0.5, alpha_cos=2.0))
    for row in rows:
        assert row["loss"] == pytest.approx(3.0 * row["ce"] + 0.5 * row["mlm"] + 2.0 * row["cos"], rel=1e-5)


def test_a_row_of_several_steps_is_the_mean_of_their_rows(loop):
    single, _ = loop(6)
    several, _ = loop(6, intervals={"log_every_steps": 3})
    for row, part in zip(several, (single[:3], single[3:]), strict=True):
        for name in ("loss", "ce", "mlm", "cos"):
            assert row[name] == pytest.approx(np.mean([one[name] for one in part]), rel=1e-6)


def test_the_learning_rate_rises_then_falls(loop):
    rows, _ = loop(10, optimizer={"learning_rate": 5e-3, "warmup_fraction": 0.3})
    expected = [1 / 3, 2 / 3, 1, *(left / 7 for left in range(7, 0, -1))]
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-3 * share for share in expected])


def test_the_same_run_twice_gives_the_same_bits(loop):
    (_, first), (_, second) = loop(4, dropout=0.2), loop(4, dropout=0.2)
    assert_same_weights(first, second)


def test_another_seed_takes_other_examples(loop):
    (first, _), (second, _) = loop(1, seed=1), loop(1, seed=2)
    assert first[0]["loss"] != second[0]["loss"]


def test_the_size_of_the_micro_batches_does_not_change_the_result(loop):
    (rows, small), (other_rows, large) = loop(4, micro_batch_size=3), loop(4, micro_batch_size=16)
    assert rows[0]["loss"] == pytest.approx(other_rows[0]["loss"], rel=1e-5)
    assert_same_weights(small, large, atol=1e-4)


def rows_under_another_random_state(loop, monkeypatch, **changes):
    """The rows of the same run with the torch seeds of the steps left alone, so that only dropout is random."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
        found.append([row["loss"] for row in loop(3, **changes)[0]])
        monkeypatch.undo()
    return found


def test_dropout_zero_removes_all_randomness(loop, monkeypatch):
    first, second = rows_under_another_random_state(loop, monkeypatch, dropout=0.0)
    assert first == second


@pytest.mark.parametrize("dropout", [0.3, None])
def test_other_dropout_is_random(loop, monkeypatch, dropout):
    first, second = rows_under_another_random_state(loop, monkeypatch, dropout=dropout)
    assert first[0] != second[0]


def test_each_step_has_dropout_of_its_own(loop):
    # With a rate of (nearly) 0 the same batch has the same loss at every step, but for dropout.
    values = {"batch_size": 16, "optimizer": {"learning_rate": 1e-30}, "micro_batch_size": 16}
    rows, _ = loop(12, dropout=0.3, **values)
    still, _ = loop(12, dropout=0.0, **values)
    differences = [row["loss"] - other["loss"] for row, other in zip(rows, still, strict=True)]
    assert len(set(differences)) == 12


def test_the_teacher_stays_as_it_is(loop, teacher_dir):
    weights = Path(teacher_dir, "model.safetensors")
    before = weights.read_bytes()
    loop(2)
    assert weights.read_bytes() == before


def test_steps_without_a_finite_gradient_change_nothing_and_end_the_run_with_their_examples(loop, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: torch.tensor(float("nan")))
    start = create_student_and_teacher(DistillConfig.model_validate({**VALUES, **folders(loop)}))[0]
    rows, model = loop(9, fault_tolerance={"max_skipped_steps": 2})
    assert_same_weights(model, start)
    assert [row["skipped_steps"] for row in rows] == [1, 1]
    assert not any("loss" in row for row in rows)
    (record,) = loop.args[2].rglob("diverged/*.json")
    found = json.loads(record.read_text())
    assert found["step"] == 2
    assert len(found["example_ids"]) == VALUES["batch_size"]


def test_a_few_steps_without_a_finite_gradient_are_skipped_and_counted(loop, monkeypatch):
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def sometimes(*args):
        calls.append(1)
        norm = clip(*args)
        return norm * float("inf") if len(calls) in (2, 3, 5) else norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", sometimes)
    rows, _ = loop(6, fault_tolerance={"max_skipped_steps": 2})
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1, 0, 1, 0]
    assert ["loss" in row for row in rows] == [True, False, False, True, False, True]


def test_gradients_are_clipped_to_the_configured_norm(loop):
    values = {"learning_rate": 1e-3, "warmup_fraction": 0.0, "eps": 1.0}  # with a large eps AdamW shows the scale
    (_, loose), (_, tight) = (loop(1, optimizer={**values, "max_grad_norm": norm}) for norm in (1e9, 1e-9))
    start = create_student_and_teacher(DistillConfig.model_validate({**VALUES, **folders(loop)}))[0]
    moved = [
        sum((one - two).norm() for one, two in zip(model.parameters(), start.parameters(), strict=True))
        for model in (loose, tight)
    ]
    assert moved[0] > 1e-5
    assert moved[1] < 1e-3 * moved[0]


def test_with_fp16_and_its_loss_scale_the_loss_falls(loop):
    rows, _ = loop(30, precision="fp16")
    values = [row["loss"] for row in rows if "loss" in row]
    assert len(values) > 20
    assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])


def test_a_loss_scale_is_taken_up_from_the_checkpoint(loop, tmp_path):
    values = {"run": tmp_path / "run", "precision": "fp16", "intervals": {"checkpoint_every_steps": 3}}
    checkpoint = tmp_path / "run/checkpoints/step-0000006"
    loop(6, **values)
    scale = json.loads((checkpoint / "state.json").read_text())["scaler"]
    assert scale["_growth_tracker"] > 3
    shutil.rmtree(checkpoint)
    loop(6, **values)
    assert json.loads((checkpoint / "state.json").read_text())["scaler"] == scale


def folders(loop):
    return {"teacher_dir": loop.args[0], "shards_dir": loop.args[1]}
