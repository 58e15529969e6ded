"""A loss that is registered at run time is trained on, planned, reported and described in the model card."""

import numpy as np
import pytest
import torch

from distilray.config.base import NonNegative
from distilray.config.distillation import DistillConfig, LossConfig
from distilray.config.report import ReportConfig
from distilray.distillation.dry_run import plan_distillation
from distilray.distillation.losses import LOSSES, Loss
from distilray.distillation.objective import DistillationLoss, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.models.student import create_student
from distilray.pretraining_data.batches import collate
from distilray.report.model_card import model_card
from distilray.report.page import report_page
from distilray.report.runs import read_runs
from tests.tiny.runs import distillation, metrics, write_run
from tests.tiny.shards import open_shards, planned, step_counts

LABEL = "absolute difference of the last hidden states"
ROWS = np.arange(4)


class DistanceLossConfig(LossConfig):
    alpha_l1: NonNegative = 0.0


def distance(student, teacher):
    return (student - teacher).abs().sum()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(LOSSES, "l1", Loss("l1", LABEL, "last_hidden", distance))


@pytest.fixture
def run_dir(tmp_path):
    values = distillation()
    values["config"]["losses"]["alpha_l1"] = 0.75
    values["files"]["metrics.jsonl"] = metrics("ce", "l1")
    write_run(tmp_path / "student", "distill", **values)
    return str(tmp_path / "student")


def test_every_weight_of_the_configuration_is_that_of_a_registered_loss():
    assert [*LossConfig().alphas, "l1"] == [*LOSSES]


def test_it_is_a_term_of_training(teacher_dir, shards_dir):
    teacher, shards = load_masked_lm(teacher_dir), open_shards(shards_dir)
    student = create_student(teacher)[0]
    batch, counts = TensorBatch.of(collate(shards, planned(ROWS), pad_id=0)), step_counts(shards, ROWS)

    def loss_and_terms(losses):
        with torch.no_grad():
            return DistillationLoss(student, teacher, losses)(batch, counts)

    without, _ = loss_and_terms(LossConfig())
    loss, terms = loss_and_terms(DistanceLossConfig(alpha_l1=0.5))
    real = batch.attention_mask.bool()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    ours = student.distilbert(**inputs).last_hidden_state[real]
    theirs = teacher.bert(**inputs, token_type_ids=batch.token_type_ids).last_hidden_state[real]
    expected = (ours - theirs).abs().sum(dim=1).mean().item()
    assert terms["l1"].item() == pytest.approx(expected, rel=1e-5)
    assert (loss - without).item() == pytest.approx(0.5 * expected, rel=1e-3)


def test_the_dry_run_shows_its_weight(teacher_dir, shards_dir):
    values = {"run_dir": "unused", "teacher_dir": teacher_dir, "shards_dir": shards_dir, "max_steps": 7}
    values |= {"batch_size": 10, "micro_batch_size": 5, "scaling": {"num_workers": 1, "use_gpu": False}}
    plan = plan_distillation(DistillConfig(**values, losses=DistanceLossConfig(alpha_l1=0.75)))
    assert "0.75 l1" in plan["losses"]


def test_the_report_and_the_model_card_show_its_weight(run_dir):
    runs = read_runs([run_dir])
    page = report_page(runs, "tiny")
    assert f"weight of l1 ({LABEL})" in page
    assert ">l1</text>" in page  # its curve
    assert f"| {LABEL} | 0.75 |" in model_card(runs, ReportConfig(run_dir="unused", run_paths=[run_dir]))
