"""Teacher training in this process, from an encoder without a masked-LM head.

tests/rehearsal and tests/pipeline train teachers on workers of Ray.
"""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from distilray.models.masked_lm import load_masked_lm
from distilray.runtime.metrics import read_metrics
from tests.golden.ray_in_process import ray_in_process
from tests.jobs.commands import run_job
from tests.tiny.models import write_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 24
RECIPE = {
    "max_steps": STEPS,
    "batch_size": 8,
    "micro_batch_size": 4,
    "precision": "fp32",
    "dropout": 0.1,
    "optimizer": {"learning_rate": 1e-3, "head_learning_rate": 1e-2},
    "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
    "intervals": {"log_every_steps": 1, "checkpoint_every_steps": 2, "keep_checkpoints": 2},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tokenizer_dir):
    """BERT without a masked-LM head."""
    folder = tmp_path_factory.mktemp("encoder")
    trained = write_teacher(folder / "with-head", tokenizer_dir, layers=2)
    load_masked_lm(trained).bert.save_pretrained(folder / "encoder")
    shutil.copy(folder / "with-head/tokenizer.json", folder / "encoder")
    return folder / "encoder"


@pytest.fixture(scope="module")
def run(encoder, shards_dir):
    """Return a function that runs the job."""

    def run(run_dir):
        with ray_in_process():
            return run_job("train_teacher", run_dir, shards_dir=shards_dir, encoder_dir=str(encoder), **RECIPE)

    return run


@pytest.fixture(scope="module")
def complete(run, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    assert run(run_dir) == 0
    return run_dir


def test_a_trained_teacher_loads_in_transformers_with_its_new_head(encoder, complete):
    model, info = AutoModelForMaskedLM.from_pretrained(complete / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before, after = load_file(encoder / "model.safetensors"), model.bert.state_dict()
    assert after.keys() == before.keys()
    assert all((after[name] != tensor).any() for name, tensor in before.items() if tensor.dim() > 1)


def test_the_masked_lm_loss_falls(complete):
    losses = [row["mlm"] for row in read_metrics(str(complete / "metrics.jsonl"))]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < sum(losses[:5])


def test_only_the_newest_checkpoints_and_the_best_one_are_kept(complete):
    kept = sorted(path.name for path in (complete / "checkpoints").glob("step-*"))
    assert kept[-2:] == [f"step-{STEPS - 2:07d}", f"step-{STEPS:07d}"]
    assert len(kept) <= 3


def test_a_run_without_its_manifest_and_model_is_completed_without_training(run, complete, tmp_path):
    copy = Path(shutil.copytree(complete, tmp_path / "run"))
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "model")
    assert run(copy) == 0
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (copy / name).read_bytes() == (complete / name).read_bytes()


def test_a_complete_run_is_skipped(run, complete, capsys):
    assert run(complete) == 0
    assert "skipped" in capsys.readouterr().out
