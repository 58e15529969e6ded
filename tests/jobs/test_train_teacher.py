import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from distilray.models.masked_lm import load_masked_lm
from distilray.runtime.metrics import read_metrics
from jobs import train_teacher
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards

STEPS = 24


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards, an encoder without a masked-LM head, and a recipe with dropout and many checkpoints."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    trained = write_teacher(folder / "with-head", tokenizer_dir, layers=2)
    load_masked_lm(trained).bert.save_pretrained(folder / "encoder")
    shutil.copy(folder / "with-head/tokenizer.json", folder / "encoder")
    write_recipe(
        folder,
        run_dir=str(folder / "whole"),
        shards_dir=str(folder / "shards"),
        encoder_dir=str(folder / "encoder"),
        max_steps=STEPS,
        batch_size=8,
        micro_batch_size=4,
        precision="fp32",
        dropout=0.1,
        optimizer={"learning_rate": 1e-3, "head_learning_rate": 1e-2},
        scaling={"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
        intervals={"log_every_steps": 1, "checkpoint_every_steps": 2, "keep_checkpoints": 2},
        ray={"num_cpus": 2},
    )
    return folder


def command(work, *overrides):
    return ["--recipe", str(work / "recipe.yaml"), *overrides]


def refusal(work, capfd, *overrides):
    assert train_teacher.main(command(work, *overrides)) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_dry_run_prints_the_plan_and_writes_nothing(work, tmp_path, capsys):
    assert train_teacher.main(command(work, f"run_dir={tmp_path}/run", "--dry-run")) == 0
    assert f"{STEPS} of 8 examples" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shards", "encoder"])
def test_a_missing_input_is_one_line_that_names_it(work, tmp_path, capfd, name):
    line = refusal(work, capfd, f"run_dir={tmp_path}/run", f"{name}_dir={tmp_path}/none")
    assert f"{tmp_path}/none" in line


def test_shards_of_another_tokenizer_are_one_line_that_says_so(work, tmp_path, capfd):
    copy = Path(shutil.copytree(work / "encoder", tmp_path / "other"))
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    line = refusal(work, capfd, f"run_dir={tmp_path}/run", f"encoder_dir={copy}")
    assert f"{work}/shards: encoded with tokenizer" in line


def test_torn_weights_are_reported_in_one_line_that_names_them(work, tmp_path, capfd):
    copy = Path(shutil.copytree(work / "encoder", tmp_path / "torn"))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:999])
    assert f"{copy}/model.safetensors" in refusal(work, capfd, f"run_dir={tmp_path}/run", f"encoder_dir={copy}")


@pytest.fixture(scope="module")
def whole(work, local_ray):
    """The run without a disturbance."""
    assert train_teacher.main(command(work)) == 0
    return work / "whole"


@pytest.mark.slow
def test_a_trained_teacher_loads_in_transformers_with_its_new_head(work, whole):
    model, info = AutoModelForMaskedLM.from_pretrained(whole / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before = load_file(work / "encoder/model.safetensors")
    assert model.bert.state_dict().keys() == before.keys()
    assert all((model.bert.state_dict()[name] != tensor).any() for name, tensor in before.items() if tensor.dim() > 1)


@pytest.mark.slow
def test_the_masked_lm_loss_of_the_teacher_falls(whole):
    losses = [row["mlm"] for row in read_metrics(str(whole / "metrics.jsonl"))]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.slow
def test_only_the_newest_checkpoints_and_the_best_one_are_kept(whole):
    kept = sorted(path.name for path in (whole / "checkpoints").glob("step-*"))
    assert kept[-2:] == [f"step-{STEPS - 2:07d}", f"step-{STEPS:07d}"]
    assert len(kept) <= 3


@pytest.mark.slow
def test_a_run_that_lost_only_its_manifest_is_completed_without_training(work, whole, capsys):
    copy = Path(shutil.copytree(whole, work / "almost"))
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "model")
    assert train_teacher.main(command(work, f"run_dir={copy}")) == 0
    assert (copy / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert (copy / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_the_same_command_again_is_skipped(work, whole, capsys):
    assert train_teacher.main(command(work)) == 0
    assert "skipped" in capsys.readouterr().out
