"""Training runs in this process: their logs, their weights and their effects on the run folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import create_student_and_teacher
from tests.tiny.teacher_cache import write_cache


def column(run, name="loss"):
    return [row[name] for row in run.rows if name in row]


def assert_same_weights(first, second, **tolerance):
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, **{"rtol": 0, "atol": 0, **tolerance}, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_loss_falls(fit, precision):
    losses = column(fit(20, precision=precision))
    assert len(losses) > 15  # in fp16, the first steps only lower the loss scale
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_a_row_has_the_weighted_sum_and_the_means_of_several_steps(fit):
    losses = {"alpha_ce": 3.0, "alpha_mlm": 0.5, "alpha_cos": 2.0}
    single = fit(7, losses=losses)
    several = fit(7, losses=losses, intervals={"log_every_steps": 3})
    assert column(several, "step") == [3, 6, 7]
    assert column(several, "total_steps") == [7, 7, 7]
    assert min(column(several, "tokens_per_s") + column(several, "grad_norm")) > 0
    for row in several.rows:
        assert row["loss"] == pytest.approx(3.0 * row["ce"] + 0.5 * row["mlm"] + 2.0 * row["cos"], rel=1e-5)
    for name in ("loss", "ce", "mlm", "cos"):
        values = column(single, name)
        means = [np.mean(values[:3]), np.mean(values[3:6]), values[6]]
        assert column(several, name) == pytest.approx(means, rel=1e-6)


def test_the_learning_rate_rises_then_falls(fit):
    run = fit(10, optimizer={"learning_rate": 5e-3, "warmup_fraction": 0.3})
    expected = [1 / 3, 2 / 3, 1, *(left / 7 for left in range(7, 0, -1))]
    assert column(run, "learning_rate") == pytest.approx([5e-3 * share for share in expected])


def test_runs_are_reproducible_and_use_other_examples_with_another_seed(fit):
    first, second, other = fit(3, dropout=0.2), fit(3, dropout=0.2), fit(1, dropout=0.2, seed=2)
    assert_same_weights(first.model, second.model)
    assert column(first)[0] != column(other)[0]


@pytest.mark.parametrize(("dropout", "is_random"), [(0.0, False), (0.3, True), (None, True)])
def test_only_dropout_is_random(fit, monkeypatch, dropout, is_random):
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "manual_seed", lambda seed: None)
            losses.append(column(fit(2, dropout=dropout)))
    assert (losses[0] != losses[1]) == is_random


def test_a_run_stops_after_too_many_steps_without_a_finite_gradient(fit, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: torch.tensor(float("nan")))
    run = fit(9, fault_tolerance={"max_skipped_steps": 2})
    assert_same_weights(run.model, run.initial_model())
    assert column(run, "skipped_steps") == [1, 1]
    assert column(run, "loss") == []
    (record,) = run.folder.glob("diverged/*.json")
    values = json.loads(record.read_text())
    assert values["step"] == 2
    assert len(set(values["example_ids"])) == run.config.batch_size


def test_a_few_steps_without_a_finite_gradient_are_skipped_and_counted(fit, monkeypatch):
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def clip_sometimes(*args):
        calls.append(1)
        return clip(*args) * (float("inf") if len(calls) in (2, 3, 5) else 1)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_sometimes)
    run = fit(6, fault_tolerance={"max_skipped_steps": 2})
    assert column(run, "skipped_steps") == [0, 1, 1, 0, 1, 0]
    assert ["loss" in row for row in run.rows] == [True, False, False, True, False, True]


def test_gradients_are_clipped_to_the_configured_norm(fit):
    values = {"learning_rate": 1e-3, "warmup_fraction": 0.0, "eps": 1.0}  # with a large eps AdamW shows the scale
    distances = []
    for norm in (1e9, 1e-9):
        run = fit(1, optimizer={**values, "max_grad_norm": norm})
        pairs = zip(run.model.parameters(), run.initial_model().parameters(), strict=True)
        distances.append(sum((one - two).norm() for one, two in pairs))
    assert distances[0] > 1e-5
    assert distances[1] < 1e-3 * distances[0]


def test_the_loss_scale_is_restored_from_a_checkpoint(fit, tmp_path):
    values = {"folder": tmp_path, "precision": "fp16", "intervals": {"checkpoint_every_steps": 3}}
    checkpoint = tmp_path / "checkpoints/step-0000006"
    fit(6, **values)
    scale = json.loads((checkpoint / "state.json").read_text())["scaler"]
    assert scale["_growth_tracker"] > 3
    shutil.rmtree(checkpoint)
    fit(6, **values)
    assert json.loads((checkpoint / "state.json").read_text())["scaler"] == scale


def test_frozen_positions_are_saved_and_restored_unchanged_while_all_other_weights_are_trained(fit, tmp_path):
    values = {"student": {"freeze_positions": True}, "intervals": {"checkpoint_every_steps": 3}}
    whole = fit(6, **values)
    trained, initial = (dict(model.named_parameters()) for model in (whole.model, whole.initial_model()))
    unchanged = [name for name, tensor in trained.items() if torch.equal(tensor, initial[name])]
    assert unchanged == ["distilbert.embeddings.position_embeddings.weight"]
    shutil.copytree(whole.folder / "checkpoints/step-0000003", tmp_path / "checkpoints/step-0000003")
    resumed = fit(6, folder=tmp_path, **values)
    assert column(resumed, "step") == [4, 5, 6]
    assert_same_weights(resumed.model, whole.model)


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_a_cache_of_the_whole_vocabulary_trains_like_the_teacher(
    fit, tmp_path, shards_dir, teacher, teacher_dir, positions
):
    before = Path(teacher_dir, "model.safetensors").read_bytes()
    cache_dir = write_cache(
        tmp_path / "cache", shards_dir, teacher_dir, top_k=teacher.config.vocab_size, positions=positions
    )
    values = {"losses": {"ce_positions": positions}, "optimizer": {"learning_rate": 2e-3}}
    values["intervals"] = {"evaluate_every_steps": 2}
    live, cached = fit(4, **values), fit(4, **values, teacher_cache_dir=cache_dir)
    for name in ("loss", "ce", "mlm", "cos"):
        assert len(column(cached, name)) == 4
        assert column(cached, name) == pytest.approx(column(live, name), rel=5e-3)
    assert [row["step"] for row in cached.heldout] == [0, 2, 4]
    for scores, expected in zip(cached.heldout, live.heldout, strict=True):
        assert scores.keys() == expected.keys()
        assert scores["agreement"] == pytest.approx(expected["agreement"], abs=0.02)
        assert scores["loss"] == pytest.approx(expected["loss"], rel=5e-3)
    assert Path(teacher_dir, "model.safetensors").read_bytes() == before


def test_a_run_with_a_cache_only_loads_the_student(tmp_path, shards_dir, teacher_dir):
    values = {"run_dir": "-", "teacher_dir": teacher_dir, "shards_dir": shards_dir}
    live, cached = (
        create_student_and_teacher(DistillConfig.model_validate(values | changes))
        for changes in ({}, {"teacher_cache_dir": str(tmp_path)})
    )
    assert live[1] is not None
    assert cached[1] is None
    assert_same_weights(cached[0], live[0])
