import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, DistilBertForMaskedLM

from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import read_notices
from jobs import distill
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards

STEPS = 12


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards, a teacher in a run folder, and a recipe for two workers."""
    folder = tmp_path_factory.mktemp("distill")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    write_recipe(
        folder,
        run_dir=str(folder / "two"),
        shards_dir=str(folder / "shards"),
        teacher_dir=str(folder / "teacher"),
        max_steps=STEPS,
        batch_size=17,  # two workers get parts of unequal size
        micro_batch_size=5,
        precision="fp32",
        dropout=0.0,
        optimizer={"learning_rate": 1e-3},
        scaling={"num_workers": 2, "use_gpu": False, "cpus_per_worker": 1},
        intervals={"log_every_steps": 1, "checkpoint_every_steps": STEPS // 3},
        ray={"num_cpus": 2},
    )
    return folder


def command(work, *overrides):
    return ["--recipe", str(work / "recipe.yaml"), *overrides]


def refusal(work, capfd, *overrides):
    assert distill.main(command(work, *overrides)) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_dry_run_prints_the_plan_and_writes_nothing(work, tmp_path, capsys):
    assert distill.main(command(work, f"run_dir={tmp_path}/run", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert "4 layers" in out
    assert "2 layers" in out
    assert f"{STEPS} of 17 examples" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shards", "teacher"])
def test_a_missing_input_is_one_line_that_names_it(work, tmp_path, capfd, name):
    line = refusal(work, capfd, f"run_dir={tmp_path}/run", f"{name}_dir={tmp_path}/none")
    assert f"{tmp_path}/none" in line


def test_shards_of_another_tokenizer_are_one_line_that_says_so(work, tmp_path, capfd):
    copy = Path(shutil.copytree(work / "teacher/model", tmp_path / "other"))
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    line = refusal(work, capfd, f"run_dir={tmp_path}/run", f"teacher_dir={copy}")
    assert f"{work}/shards: encoded with tokenizer" in line


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("student.layers=[0,4]", "student.layers: the teacher has layers 0 to 3, not 4"),
        ("student.layers=[]", "student.layers"),
        ("losses={alpha_ce: 0, alpha_mlm: 0, alpha_cos: 0}", "nothing would be learned"),
        ("losses.temperature=0", "losses.temperature"),
        ("losses.alfa_ce=1", "did you mean 'alpha_ce'"),
        ("dropout=1", "dropout"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas.1"),
        ("student={initialization: random, fold_segment_a: true}", "fold_segment_a: a randomly initialized student"),
        ("scaling.num_workers=0", "scaling.num_workers"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(work, tmp_path, capfd, override, reason):
    assert reason in refusal(work, capfd, f"run_dir={tmp_path}/run", override)


@pytest.mark.parametrize("sizes", [("batch_size=9", "micro_batch_size=1"), ("batch_size=1", "micro_batch_size=32")])
def test_a_step_without_an_example_for_every_worker_is_refused(work, tmp_path, capfd, sizes):
    assert "batch_size" in refusal(work, capfd, f"run_dir={tmp_path}/run", "--dry-run", *sizes)


@pytest.mark.slow
def test_more_workers_than_the_cluster_holds_are_one_line(work, tmp_path, capfd, local_ray):
    line = refusal(work, capfd, f"run_dir={tmp_path}/run", "scaling.num_workers=3")
    assert "no room for 3 workers with 1 CPU: the local cluster has 2 CPU" in line


@pytest.fixture(scope="module")
def two(work, local_ray):
    """The run with two workers."""
    assert distill.main(command(work)) == 0
    return work / "two"


@pytest.mark.slow
def test_the_student_loads_in_transformers_and_has_half_the_layers(work, two):
    model, info = AutoModelForMaskedLM.from_pretrained(two / "model", output_loading_info=True)
    assert isinstance(model, DistilBertForMaskedLM)
    assert model.config.n_layers == 2
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.slow
def test_the_student_holds_no_tensor_of_its_teacher(work, two):
    teacher, student = load_file(work / "teacher/model/model.safetensors"), load_file(two / "model/model.safetensors")
    assert all(name.startswith(("distilbert.", "vocab_")) for name in student)
    assert not set(teacher) & set(student)
    checkpoint = next((two / "checkpoints").glob("step-*"))
    optimiser = load_file(checkpoint / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in optimiser} == set(student)


@pytest.mark.slow
def test_the_origin_of_every_student_tensor_is_written_down(two):
    source = json.loads((two / "initialization.json").read_text())
    assert set(load_file(two / "model/model.safetensors")) <= set(source)


@pytest.fixture(scope="module")
def two_one(work, two):
    """The run whose first third is done by two workers, and the rest by one."""
    folder = Path(shutil.copytree(two, work / "two-one"))
    go_back(folder, STEPS // 3)
    assert distill.main(command(work, f"run_dir={folder}", "scaling.num_workers=1")) == 0
    return folder


@pytest.fixture(scope="module")
def two_one_two(work, two_one):
    """The run with two workers whose second third is done by one."""
    folder = Path(shutil.copytree(two_one, work / "two-one-two"))
    go_back(folder, 2 * STEPS // 3)
    assert distill.main(command(work, f"run_dir={folder}")) == 0
    return folder


def go_back(run, done):
    """As if a run had been stopped after some steps."""
    shutil.rmtree(run / "model")
    (run / "manifest.json").unlink()
    for checkpoint in (run / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > done:
            shutil.rmtree(checkpoint)


@pytest.mark.slow
def test_each_step_of_one_and_of_two_workers_has_the_same_loss(two_one, two):
    first, second = (read_metrics(str(run / "metrics.jsonl")) for run in (two_one, two))
    assert len(first) == len(second) == STEPS
    for name in ("loss", "ce", "mlm", "cos", "grad_norm"):
        assert first[STEPS // 3][name] == pytest.approx(second[STEPS // 3][name], rel=1e-5)
        assert [row[name] for row in first] == pytest.approx([row[name] for row in second], rel=1e-3)


@pytest.mark.slow
def test_one_and_two_workers_end_with_the_same_weights(two_one, two):
    first, second = (load_file(run / "model/model.safetensors") for run in (two_one, two))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_with_more_workers(two_one_two):
    going_on = [text for text in read_notices(str(two_one_two)) if "resuming" in text]
    steps = (STEPS // 3, 2 * STEPS // 3)
    assert going_on == [
        f"resuming from the checkpoint of step {step} with {workers} worker(s)"
        for step, workers in zip(steps, (1, 2), strict=True)
    ]


@pytest.mark.slow
def test_with_two_then_one_then_two_workers_each_step_has_the_same_loss(two, two_one_two):
    first, second = (read_metrics(str(run / "metrics.jsonl")) for run in (two, two_one_two))
    assert [row["step"] for row in second] == list(range(1, STEPS + 1))
    for name in ("loss", "ce", "mlm", "cos"):
        assert [row[name] for row in second] == pytest.approx([row[name] for row in first], rel=1e-5)


@pytest.mark.slow
def test_the_number_of_workers_is_no_part_of_what_a_run_is(work, two, capsys):
    assert distill.main(command(work, "scaling.num_workers=1")) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_distilling_lowers_the_loss_of_a_smaller_model(two):
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["content"]["counts"]["teacher_parameters"] > manifest["content"]["counts"]["parameters"]
    assert read_metrics(str(two / "metrics.jsonl"))[-1]["loss"] < read_metrics(str(two / "metrics.jsonl"))[0]["loss"]
