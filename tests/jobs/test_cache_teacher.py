import json
import shutil
from pathlib import Path

import pytest
import yaml

from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import check_cache_files
from distilray.errors import InputError
from distilray.runtime.metrics import read_metrics
from distilray.runtime.run_folder import RunFolder
from distilray.stages import STAGES
from jobs import cache_teacher, distill
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards
from tests.tiny.teacher_cache import cache_config, cache_in_process, write_cache


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards in several files, a teacher, a cache of it, and a recipe for each of both jobs."""
    folder = tmp_path_factory.mktemp("cache_teacher")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir, rows_per_shard=25)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    inputs = {f"{name}_dir": str(folder / name) for name in ("shards", "teacher")}
    for name, values in {
        "cache": {"top_k": 8, "precision": "fp32", "batch_size": 7, "ray": {"num_cpus": 2}},
        "distill": {"max_steps": 2, "batch_size": 8, "micro_batch_size": 4, "teacher_cache_dir": str(folder / "made")},
    }.items():
        (folder / name).mkdir()
        scaling = {"gpus_per_task": 0, "cpus_per_task": 1} if name == "cache" else {"num_workers": 1, "use_gpu": False}
        write_recipe(folder / name, run_dir=str(folder / f"{name}-run"), scaling=scaling, **inputs, **values)
    write_cache(folder / "made", inputs["shards_dir"], inputs["teacher_dir"])
    return folder


def command(work, job, *overrides):
    return ["--recipe", str(work / job / "recipe.yaml"), *overrides]


def refusal(work, capfd, job, *overrides):
    """The one line on stderr of a command that is refused."""
    main = {"cache": cache_teacher.main, "distill": distill.main}[job]
    assert main(command(work, job, *overrides)) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def manifest_of(folder):
    return json.loads(Path(folder, "manifest.json").read_text())


def tokens_of(work):
    """Tokens of the shards by split."""
    counts = manifest_of(work / "shards")["content"]["counts"]
    return {split: counts[split]["tokens"] for split in ("train", "heldout")}


@pytest.fixture
def begun(work, tmp_path):
    """A run that was cut off after two tasks."""
    config = cache_config(tmp_path / "run", str(work / "shards"), str(work / "teacher"))
    folder = RunFolder("cache_teacher", config, STAGES["cache_teacher"].job().inputs(config))
    folder.begin()
    with pytest.raises(KeyboardInterrupt):
        cache_in_process(config, folder, limit=2)
    return config, folder


def test_a_dry_run_prints_the_bytes_of_each_split_and_writes_nothing(work, tmp_path, capsys):
    assert cache_teacher.main(command(work, "cache", f"run_dir={tmp_path}/run", "--dry-run")) == 0
    out = capsys.readouterr().out
    for split, count in tokens_of(work).items():
        assert f"{count * (2 * 32 + 8 * 6):,} for {split}" in out
    assert "unknown: set estimate.tokens_per_s or estimate.measured_run_dir" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_at_masked_positions_counts_the_tokens_that_are_predicted(work, tmp_path, capsys):
    assert cache_teacher.main(command(work, "cache", "positions=masked", "--dry-run")) == 0
    counts = manifest_of(work / "shards")["content"]["counts"]["train"]
    assert f"{counts['tokens'] * 64 + counts['predicted'] * 48:,} for train" in capsys.readouterr().out


@pytest.mark.parametrize("measured", [False, True])
def test_a_dry_run_tells_the_hours_when_the_rate_is_known(work, capsys, measured):
    key = f"estimate.measured_run_dir={work}/made" if measured else "estimate.tokens_per_s=2"
    assert cache_teacher.main(command(work, "cache", key, "--dry-run")) == 0
    assert "tokens/s per worker" in capsys.readouterr().out


def test_a_dry_run_of_a_distillation_tells_what_a_cache_would_take(work, capsys):
    assert distill.main(command(work, "distill", "teacher_cache_dir=null", "--dry-run")) == 0
    tokens = sum(tokens_of(work).values())
    size = tokens * (2 * 32 + 64 * 6) / 1e6
    assert f"teacher cache    would take about {size:.1f} MB with top_k 64 at all tokens" in capsys.readouterr().out


def test_a_dry_run_of_a_distillation_names_its_cache(work, capsys):
    assert distill.main(command(work, "distill", "--dry-run")) == 0
    assert f"teacher cache    used instead of the teacher: {work}/made" in capsys.readouterr().out


def test_the_same_run_twice_is_the_same_content(work, tmp_path):
    write_cache(tmp_path / "again", str(work / "shards"), str(work / "teacher"))
    assert manifest_of(tmp_path / "again")["content_hash"] == manifest_of(work / "made")["content_hash"]


def test_a_run_that_was_cut_off_does_the_rest_and_comes_to_the_same_content(work, begun):
    config, folder = begun
    before = {file.name: file.stat().st_mtime_ns for file in Path(config.run_dir, "teacher").iterdir()}
    assert len(before) == 2
    Path(config.run_dir, "teacher/.train-0.arrow.1.part").write_bytes(b"of a task that was killed")
    outcome = cache_in_process(config, folder)
    manifest = folder.finish(outcome.counts, outcome.outputs, outcome.summary)
    assert manifest["content_hash"] == manifest_of(work / "made")["content_hash"]
    after = {file.name: file.stat().st_mtime_ns for file in Path(config.run_dir, "teacher").iterdir()}
    assert len(after) == len(outcome.outputs) > 2
    assert before.items() <= after.items()


def test_a_run_that_was_interrupted_is_not_a_cache(work, begun, capfd):
    line = refusal(work, capfd, "distill", f"teacher_cache_dir={begun[0].run_dir}", "--dry-run")
    assert f"{begun[0].run_dir}: no manifest.json" in line


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("top_k=100000", "top_k: 100000 exceeds the teacher's vocabulary"),
        ("top_k=0", "top_k"),
        ("temperature=0", "temperature"),
        ("positions=some", "positions"),
        ("estimate.measured_run_dir={work}/shards", "written by encode_corpus, not by cache_teacher"),
        ("teacher_dir={work}/none", "{work}/none"),
        ("shards_dir={work}/none", "{work}/none"),
    ],
)
def test_a_bad_value_is_reported_in_one_line_that_names_it(work, capfd, override, reason):
    line = refusal(work, capfd, "cache", override.format(work=work), "--dry-run")
    assert reason.format(work=work) in line


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["losses.temperature=3"], "softened at temperature 2, and losses.temperature is 3"),
        (["losses.alpha_mse=0.1"], "losses.alpha_mse needs the teacher itself"),
        (["losses.alpha_values=1"], "losses.alpha_values needs the teacher itself"),
        (["teacher_cache_dir={work}/shards"], "written by encode_corpus, not by cache_teacher"),
        (["teacher_cache_dir={work}/none"], "{work}/none: no manifest.json"),
    ],
)
def test_a_cache_that_does_not_fit_the_losses_is_reported_in_one_line(work, capfd, overrides, reason):
    line = refusal(work, capfd, "distill", *[one.format(work=work) for one in overrides], "--dry-run")
    assert reason.format(work=work) in line


def test_a_temperature_that_no_loss_uses_may_differ(work):
    overrides = ("losses.alpha_ce=0", "losses.temperature=3", "--dry-run")
    assert distill.main(command(work, "distill", *overrides)) == 0


def test_a_cache_of_masked_positions_is_refused_where_all_are_compared(work, tmp_path, capfd):
    folder = write_cache(tmp_path / "masked", str(work / "shards"), str(work / "teacher"), positions="masked")
    line = refusal(work, capfd, "distill", f"teacher_cache_dir={folder}", "--dry-run")
    assert f"{folder}: has probabilities at masked tokens only; set losses.ce_positions=masked" in line
    fitting = (f"teacher_cache_dir={folder}", "losses.ce_positions=masked", "--dry-run")
    assert distill.main(command(work, "distill", *fitting)) == 0


def test_a_cache_of_other_shards_is_reported_in_one_line(work, tmp_path, capfd):
    write_shards(tmp_path / "shards", str(work / "tokenizer"), documents=20)
    line = refusal(work, capfd, "distill", f"shards_dir={tmp_path}/shards", "--dry-run")
    assert f"{work}/made: made from other shards than {tmp_path}/shards" in line


def test_a_cache_of_another_teacher_is_reported_in_one_line(work, tmp_path, capfd):
    write_teacher(tmp_path / "teacher", str(work / "tokenizer"), layers=6)
    line = refusal(work, capfd, "distill", f"teacher_dir={tmp_path}/teacher", "--dry-run")
    assert f"{work}/made: made by another teacher than {tmp_path}/teacher" in line


def test_a_teacher_is_known_by_its_content_wherever_it_is_stored(work, tmp_path):
    copy = shutil.copytree(work / "teacher/model", tmp_path / "copy")
    assert distill.main(command(work, "distill", f"teacher_dir={copy}", "--dry-run")) == 0


@pytest.mark.parametrize("job", ["cache", "distill"])
def test_masks_that_are_drawn_in_every_epoch_are_reported_in_one_line(work, tmp_path, capfd, job):
    write_shards(tmp_path / "shards", str(work / "tokenizer"), documents=20, masking={"dynamic": True})
    line = refusal(work, capfd, job, f"shards_dir={tmp_path}/shards", "--dry-run")
    assert f"{tmp_path}/shards: its masks are drawn in every epoch" in line


def test_without_a_cache_masks_that_are_drawn_in_every_epoch_rule_one_out(work, tmp_path, capsys):
    write_shards(tmp_path / "shards", str(work / "tokenizer"), documents=20, masking={"dynamic": True})
    overrides = ("teacher_cache_dir=null", f"shards_dir={tmp_path}/shards", "--dry-run")
    assert distill.main(command(work, "distill", *overrides)) == 0
    assert "teacher cache    none possible: masks are drawn in every epoch" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_cache_with_a_missing_or_torn_file_is_reported_in_one_line(work, tmp_path, capfd, damage):
    folder = Path(shutil.copytree(work / "made", tmp_path / "copy"))
    file = min((folder / "teacher").glob("heldout-*"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    line = refusal(work, capfd, "distill", f"teacher_cache_dir={folder}", "--dry-run")
    assert f"{folder}/teacher/{file.name}: " in line


def test_a_run_verifies_every_file_of_its_cache(work, tmp_path):
    folder = Path(shutil.copytree(work / "made", tmp_path / "copy"))
    values = yaml.safe_load((work / "distill/recipe.yaml").read_text()) | {"teacher_cache_dir": str(folder)}
    config = DistillConfig.model_validate(values)
    check_cache_files(config, verify=True)
    file = max((folder / "teacher").glob("train-*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    check_cache_files(config)
    with pytest.raises(InputError, match="its content differs from the manifest"):
        check_cache_files(config, verify=True)


def test_a_cache_is_an_input_of_the_run_that_reads_it(work):
    values = yaml.safe_load((work / "distill/recipe.yaml").read_text())
    inputs_of = STAGES["distill"].job().inputs
    inputs = inputs_of(DistillConfig.model_validate(values))
    assert inputs["teacher_cache"] == str(work / "made")
    without = inputs_of(DistillConfig.model_validate(values | {"teacher_cache_dir": None}))
    assert "teacher_cache" not in without


@pytest.mark.slow
def test_on_a_cluster_the_job_comes_to_the_content_of_one_process(work, local_ray):
    assert cache_teacher.main(command(work, "cache")) == 0
    found, expected = manifest_of(work / "cache-run")["content"], manifest_of(work / "made")["content"]
    assert found["outputs"].keys() == expected["outputs"].keys()
    assert found["inputs"] == expected["inputs"]
    assert {name: entry["rows"] for name, entry in found["outputs"].items()} == {
        name: entry["rows"] for name, entry in expected["outputs"].items()
    }
    assert found["counts"]["train"] == pytest.approx(expected["counts"]["train"], rel=1e-4)


@pytest.mark.slow
def test_a_task_larger_than_the_cluster_is_reported_in_one_line(work, tmp_path, capfd, local_ray):
    line = refusal(work, capfd, "cache", f"run_dir={tmp_path}/run", "scaling.cpus_per_task=3")
    assert "no room for 1 task with 3 CPU: the local cluster has 2 CPU" in line


@pytest.mark.slow
def test_two_workers_distil_from_a_cache_what_it_was_made_of(work, local_ray):
    overrides = ("scaling={num_workers: 2, use_gpu: false, cpus_per_worker: 1}", "intervals.log_every_steps=1")
    assert distill.main(command(work, "distill", *overrides)) == 0
    folder = work / "distill-run"
    made = manifest_of(work / "made")["content_hash"]
    assert manifest_of(folder)["content"]["inputs"]["teacher_cache"] == {"content_hash": made}
    rows = read_metrics(str(folder / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["ce"] > 0 and row["cos"] > 0 for row in rows)
    assert "agreement" in read_metrics(str(folder / "heldout.jsonl"))[-1]
