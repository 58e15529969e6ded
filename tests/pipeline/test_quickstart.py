"""The quickstart pipeline on its real input with fewer steps: interrupted, resumed, and run again."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from huggingface_hub import ModelCard

from distilray import pipeline
from jobs import run_pipeline

pytestmark = pytest.mark.slow

OVERRIDES = [
    "train_teacher.max_steps=3",
    "distill.max_steps=3",
    "train_teacher.batch_size=4",
    "distill.batch_size=4",
    "train_teacher.intervals.heldout_examples=8",
    "distill.intervals.heldout_examples=8",
    "encode_corpus.dupe_factor=1",
    "evaluate_fill_mask.max_examples=20",
    "evaluate_fill_mask.latency_examples=3",
]
PIPELINE = "jobs/pipelines/quickstart.yaml"
LIMIT_S = 600


def start(root: Path, folder: Path) -> subprocess.Popen[str]:
    """Start the quickstart like a shell, in its own process group, which receives Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.run_pipeline", str(root / PIPELINE), *OVERRIDES],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory, root):
    """Three runs in one folder: interrupted by Ctrl-C during teacher training, resumed, and run again.

    The last run is in this process, and must not start Ray.
    """
    folder = tmp_path_factory.mktemp("quickstart")
    first = start(root, folder)
    metrics = folder / "runs" / "quickstart" / "teacher" / "metrics.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while not metrics.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    runs = [(*first.communicate(timeout=LIMIT_S), first.returncode)]
    second = start(root, folder)
    runs.append((*second.communicate(timeout=LIMIT_S), second.returncode))
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        patch.object(pipeline, "_open_session", lambda _: pytest.fail("starts Ray")),
    ):
        code = run_pipeline.main([str(root / PIPELINE), *OVERRIDES])
    runs.append((output.getvalue(), errors.getvalue(), code))
    return folder / "runs" / "quickstart", runs


def test_ctrl_c_prints_one_line_that_tells_how_to_resume(quickstart):
    _, ((_, errors, code), _, _) = quickstart
    lines = [text for text in errors.splitlines() if "steps" not in text and "MB" not in text]
    assert code == 130
    assert lines[-1] == "run_pipeline: interrupted; run the same command again to resume"
    assert "Traceback" not in errors


def test_the_second_run_skips_completed_stages_and_runs_the_others(quickstart):
    _, (_, (output, errors, code), _) = quickstart
    assert code == 0, errors
    skipped = [text.partition(":")[0] for text in output.splitlines() if "skipped" in text]
    assert skipped == ["build_corpus", "encode_corpus"]


def test_the_answers_are_recorded(quickstart):
    runs, (_, (output, _, _), _) = quickstart
    recorded = [each["answer"] for each in json.loads((runs / "service/answers.json").read_text())]
    assert recorded == [json.loads(text.strip().removeprefix("-> ")) for text in output.splitlines() if "  -> " in text]


def test_a_complete_pipeline_runs_no_stage_again(quickstart):
    _, (_, _, (output, errors, code)) = quickstart
    assert code == 0, errors
    assert output.count("skipped)") == 7


def test_each_stage_prints_one_line_with_its_counts(quickstart):
    _, (_, (output, _, _), _) = quickstart
    kept = (
        r"^build_corpus: kept 97 of 206 documents \(109 dropped: \d+ redirect, .*\), [\d,]+ sentences.*, [\d,]+ words"
    )
    assert re.search(kept, output, re.M)
    assert re.search(r"^train_teacher: 3 steps, loss [\d.]+, .* tokens/s in \d", output, re.M)
    assert re.search(r"^distill: 3 steps, loss [\d.]+, ce [\d.]+, mlm [\d.]+, cos [\d.]+", output, re.M)
    assert re.search(r"^write_report: report.html, README.md of 5 runs; missing: evaluate_glue, ", output, re.M)
    assert re.search(r"^check_service: 2 requests answered in \d", output, re.M)


def test_the_output_ends_with_the_table_and_both_responses(quickstart):
    _, (_, (output, _, _), _) = quickstart
    table, _, answers = output.partition("POST /score")
    assert "hit@10" in table.rpartition("check_service:")[2]
    first, second = (json.loads(text.strip().removeprefix("-> ")) for text in answers.splitlines() if "->" in text)
    assert len(first) == 1
    assert isinstance(first[0], str)
    assert [set(candidate) for candidate in second] == [{"score", "token", "token_str", "sequence"}] * 3


def test_every_stage_writes_a_complete_run_that_refers_to_its_input(quickstart):
    runs, _ = quickstart
    manifests = {file.parent.name: json.loads(file.read_text()) for file in runs.glob("*/manifest.json")}
    assert set(manifests) == {"corpus", "shards", "teacher", "student", "fill_mask", "report", "service"}
    for name, upstream, role in (
        ("shards", "corpus", "corpus"),
        ("student", "teacher", "teacher"),
        ("service", "student", "model"),
    ):
        assert manifests[name]["content"]["inputs"][role]["content_hash"] == manifests[upstream]["content_hash"]


def test_the_report_and_the_card_show_the_results_of_the_runs(quickstart):
    runs, _ = quickstart
    page, card = (runs / "report/report.html").read_text(), ModelCard((runs / "report/README.md").read_text())
    scores = json.loads((runs / "fill_mask/scores.json").read_text())
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["hit@10"] == scores["student"]["hit@10"]
    assert "97 documents, 17,969 sentences" in page
    assert page.count("<svg") == 12
    assert "used a different" not in page


def test_no_process_of_the_pipeline_remains(quickstart):
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "jobs.run_pipeline" not in processes
