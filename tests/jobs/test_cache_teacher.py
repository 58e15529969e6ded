"""Teacher caches: the job that writes them, and distillation from them."""

import shutil
from pathlib import Path

import pytest

from distilray.config.cache_teacher import SAMPLES, TOP_K
from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import check_cache_files
from distilray.errors import InputError
from distilray.runtime.metrics import read_metrics
from distilray.runtime.run_folder import RunFolder
from distilray.stages import STAGES
from tests.golden.ray_in_process import ray_in_process
from tests.jobs.commands import content_hash, content_of, run_job
from tests.tiny.models import write_teacher
from tests.tiny.shards import write_shards
from tests.tiny.teacher_cache import cache_config, cache_in_process, write_cache

CACHE = {
    "top_k": 8,
    "samples": 0,
    "precision": "fp32",
    "batch_size": 7,
    "ray": {"num_cpus": 2},
    "scaling": {"gpus_per_task": 0, "cpus_per_task": 1},
}
DISTILL = {
    "max_steps": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "scaling": {"num_workers": 1, "use_gpu": False},
    "intervals": {"log_every_steps": 1},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer_dir):
    """Shards in several files, shards with dynamic masks, a teacher, and its cache."""
    folder = tmp_path_factory.mktemp("cache_teacher")
    write_shards(folder / "shards", tokenizer_dir, rows_per_shard=25)
    write_shards(folder / "dynamic", tokenizer_dir, documents=20, masking={"dynamic": True})
    write_teacher(folder / "teacher/model", tokenizer_dir)
    write_cache(folder / "cache", str(folder / "shards"), str(folder / "teacher"))
    return folder


@pytest.fixture
def run(folder, tmp_path):
    """Return a function that runs one of the two jobs."""

    def run(job, *overrides, **changes):
        recipe = {f"{name}_dir": str(folder / name) for name in ("shards", "teacher")}
        recipe |= CACHE if job == "cache_teacher" else {**DISTILL, "teacher_cache_dir": str(folder / "cache")}
        return run_job(job, tmp_path / "run", *overrides, **{**recipe, **changes})

    return run


def tokens_of(folder):
    """Return the number of tokens in the shards by split."""
    counts = content_of(folder / "shards")["counts"]
    return {split: counts[split]["tokens"] for split in ("train", "heldout")}


def test_a_dry_run_prints_the_bytes_of_each_split(folder, run, capsys):
    assert run("cache_teacher", "--dry-run") == 0
    output = capsys.readouterr().out
    for split, count in tokens_of(folder).items():
        assert f"{count * (32 + 4 + 8 * 4 + 4):,} for {split}" in output
    assert run("cache_teacher", "--dry-run", positions="masked") == 0
    counts = content_of(folder / "shards")["counts"]["train"]
    assert f"{counts['tokens'] * 36 + counts['predicted'] * 36:,} for train" in capsys.readouterr().out
    assert run("cache_teacher", "--dry-run", positions="masked", hidden_states=False) == 0
    assert f"{counts['predicted'] * 36:,} for train" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["tokens_per_s", "measured_run_dir"])
def test_a_dry_run_prints_the_time_if_the_rate_is_known(folder, run, capsys, key):
    estimate = {"tokens_per_s": 2, "measured_run_dir": str(folder / "cache")}
    assert run("cache_teacher", "--dry-run", estimate={key: estimate[key]}) == 0
    assert "tokens/s per worker" in capsys.readouterr().out


def test_a_dry_run_of_a_distillation_names_its_cache_or_the_size_of_one(folder, run, capsys):
    assert run("distill", "--dry-run") == 0
    assert f"teacher cache    used instead of the teacher: {folder}/cache" in capsys.readouterr().out
    assert run("distill", "--dry-run", "teacher_cache_dir=null") == 0
    size = sum(tokens_of(folder).values()) * (32 + 4 + (TOP_K + SAMPLES) * 4 + 4) / 1e6
    text = f"would take about {size:.1f} MB with top_k {TOP_K} and {SAMPLES} samples at all tokens, with hidden states"
    assert f"teacher cache    {text}" in capsys.readouterr().out


def test_an_interrupted_run_resumes_with_the_same_content(folder, run, tmp_path, error_line):
    config = cache_config(tmp_path / "interrupted", str(folder / "shards"), str(folder / "teacher"))
    run_folder = RunFolder("cache_teacher", config, STAGES["cache_teacher"].job().inputs(config))
    run_folder.begin()
    with pytest.raises(KeyboardInterrupt):
        cache_in_process(config, run_folder, limit=2)
    line = error_line(run("distill", "--dry-run", teacher_cache_dir=config.run_dir))
    assert f"{config.run_dir}: no manifest.json" in line

    files = tmp_path / "interrupted/teacher"
    before = {file.name: file.stat().st_mtime_ns for file in files.iterdir()}
    assert len(before) == 2
    (files / ".train-0.arrow.1.part").write_bytes(b"of a killed task")
    outcome = cache_in_process(config, run_folder)
    run_folder.finish(outcome.counts, outcome.outputs, outcome.summary)
    assert content_hash(tmp_path / "interrupted") == content_hash(folder / "cache")
    after = {file.name: file.stat().st_mtime_ns for file in files.iterdir()}
    assert len(after) == len(outcome.outputs) > 2
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("job", "overrides", "message"),
    [
        ("cache_teacher", "top_k=100000", "top_k: 100000 with 0 samples exceeds the teacher's vocabulary"),
        ("cache_teacher", "top_k=0", "top_k"),
        ("cache_teacher", "temperature=0", "temperature"),
        ("cache_teacher", "positions=some", "positions"),
        ("cache_teacher", "estimate.measured_run_dir={}/shards", "written by encode_corpus, not by cache_teacher"),
        ("distill", "losses.temperature=3", "softened at temperature 2, and losses.temperature is 3"),
        ("distill", "losses.alpha_mse=1", "losses.alpha_mse needs the teacher itself"),
        ("distill", "losses.alpha_values=1", "losses.alpha_values needs the teacher itself"),
        ("distill", "teacher_cache_dir={}/shards", "written by encode_corpus, not by cache_teacher"),
        ("distill", "teacher_cache_dir={}/none", "{}/none: no manifest.json"),
    ],
)
def test_a_rejected_value_is_reported_in_one_line(folder, run, error_line, job, overrides, message):
    assert message.format(folder) in error_line(run(job, "--dry-run", overrides.format(folder)))


def test_a_temperature_that_no_loss_uses_may_differ(run):
    assert run("distill", "--dry-run", "losses.alpha_ce=0", "losses.temperature=3") == 0


def test_a_cache_of_other_shards_is_rejected(folder, run, tokenizer_dir, tmp_path, error_line):
    other = write_shards(tmp_path / "shards", tokenizer_dir, documents=20)
    line = error_line(run("distill", "--dry-run", shards_dir=other))
    assert f"{folder}/cache: made from other shards than {other}" in line


def test_a_cache_of_masked_tokens_requires_a_loss_at_masked_tokens(folder, run, tmp_path, error_line):
    cache = write_cache(tmp_path / "masked", str(folder / "shards"), str(folder / "teacher"), positions="masked")
    line = error_line(run("distill", "--dry-run", teacher_cache_dir=cache))
    assert f"{cache}: has probabilities at masked tokens only; set losses.ce_positions=masked" in line
    assert run("distill", "--dry-run", teacher_cache_dir=cache, losses={"ce_positions": "masked"}) == 0


def test_a_cache_without_hidden_states_is_rejected_by_the_cosine_loss(folder, run, tmp_path, error_line):
    cache = write_cache(tmp_path / "logits", str(folder / "shards"), str(folder / "teacher"), hidden_states=False)
    line = error_line(run("distill", "--dry-run", teacher_cache_dir=cache))
    assert f"{cache}: has no hidden states; set losses.alpha_cos=0, or cache with hidden_states=true" in line
    assert run("distill", "--dry-run", "losses.alpha_cos=0", teacher_cache_dir=cache) == 0


def test_a_cache_of_another_teacher_is_rejected_and_a_copy_of_the_teacher_is_accepted(
    folder, run, tokenizer_dir, tmp_path, error_line
):
    other = write_teacher(tmp_path / "other", tokenizer_dir, layers=6)
    line = error_line(run("distill", "--dry-run", teacher_dir=other))
    assert f"{folder}/cache: made by another teacher than {other}" in line
    copy = shutil.copytree(folder / "teacher/model", tmp_path / "copy")
    assert run("distill", "--dry-run", teacher_dir=str(copy)) == 0


@pytest.mark.parametrize("job", ["cache_teacher", "distill"])
def test_dynamic_masks_cannot_be_cached(folder, run, error_line, job):
    line = error_line(run(job, "--dry-run", shards_dir=str(folder / "dynamic")))
    assert f"{folder}/dynamic: its masks are drawn in every epoch" in line


def distill_config(folder, cache):
    recipe = {"run_dir": "x", "shards_dir": str(folder / "shards"), "teacher_dir": str(folder / "teacher")}
    return DistillConfig.model_validate({**recipe, **DISTILL, "teacher_cache_dir": cache and str(cache)})


def test_a_changed_file_of_a_cache_is_found_by_a_run_and_a_truncated_one_by_a_dry_run(
    folder, run, tmp_path, error_line
):
    cache = Path(shutil.copytree(folder / "cache", tmp_path / "copy"))
    config = distill_config(folder, cache)
    check_cache_files(config, verify=True)
    file = max((cache / "teacher").glob("train-*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    check_cache_files(config)
    with pytest.raises(InputError, match="its content differs from the manifest"):
        check_cache_files(config, verify=True)
    file.write_bytes(data[:-9])
    assert f"{file}: " in error_line(run("distill", "--dry-run", teacher_cache_dir=str(cache)))
    file.unlink()
    assert f"{file}: " in error_line(run("distill", "--dry-run", teacher_cache_dir=str(cache)))


def test_a_cache_is_an_input_of_a_run_that_reads_it(folder):
    inputs_of = STAGES["distill"].job().inputs
    assert inputs_of(distill_config(folder, folder / "cache"))["teacher_cache"] == str(folder / "cache")
    assert "teacher_cache" not in inputs_of(distill_config(folder, None))


@pytest.mark.slow
def test_a_cluster_writes_the_same_cache_as_one_process(folder, run, tmp_path, local_ray):
    assert run("cache_teacher") == 0
    content, expected = content_of(tmp_path / "run"), content_of(folder / "cache")
    assert content["inputs"] == expected["inputs"]
    rows = [{name: entry["rows"] for name, entry in each["outputs"].items()} for each in (content, expected)]
    assert rows[0] == rows[1]
    assert content["counts"]["train"] == pytest.approx(expected["counts"]["train"], rel=1e-4)


@pytest.mark.slow
def test_a_task_larger_than_the_cluster_is_rejected(run, error_line, local_ray):
    line = error_line(run("cache_teacher", "scaling.cpus_per_task=3"))
    assert "no room for 1 task with 3 CPU: the local cluster has 2 CPU" in line


def test_a_student_can_be_distilled_from_a_cache(folder, run, tmp_path):
    """tests/distilray/training/test_worker_group.py does so with two workers."""
    with ray_in_process(cpus=4):
        assert run("distill") == 0
    cache = content_hash(folder / "cache")
    assert content_of(tmp_path / "run")["inputs"]["teacher_cache"] == {"content_hash": cache}
    rows = read_metrics(str(tmp_path / "run/metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["ce"] > 0 and row["cos"] > 0 for row in rows)
    assert "agreement" in read_metrics(str(tmp_path / "run/heldout.jsonl"))[-1]
