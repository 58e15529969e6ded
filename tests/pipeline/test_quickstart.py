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
from typing import NamedTuple
from unittest.mock import patch

import pytest
from huggingface_hub import ModelCard

from distilray import pipeline
from distilray.runtime.run_folder import read_manifest
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


class Result(NamedTuple):
    """Output and exit code of a run."""

    output: str
    errors: str
    code: int


class Quickstart(NamedTuple):
    """Folder of the stages, session ids of the processes, and the results of three runs."""

    runs: Path
    sessions: list[str]
    interrupted: Result
    resumed: Result
    repeated: Result


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


def result_of(process: subprocess.Popen[str]) -> Result:
    return Result(*process.communicate(timeout=LIMIT_S), process.returncode)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory, root):
    """Interrupt the pipeline during teacher training, resume it, and run it again in this process without Ray."""
    folder = tmp_path_factory.mktemp("quickstart")
    runs = folder / "runs" / "quickstart"
    first = start(root, folder)
    deadline = time.monotonic() + LIMIT_S
    while not (runs / "teacher/metrics.jsonl").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    interrupted = result_of(first)
    second = start(root, folder)
    resumed = result_of(second)
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
        patch.object(pipeline, "_open_session", lambda _: pytest.fail("starts Ray")),
    ):
        code = run_pipeline.main([str(root / PIPELINE), *OVERRIDES])
    repeated = Result(output.getvalue(), errors.getvalue(), code)
    return Quickstart(runs, [str(first.pid), str(second.pid)], interrupted, resumed, repeated)


def test_ctrl_c_prints_one_line_that_tells_how_to_resume(quickstart):
    lines = [line for line in quickstart.interrupted.errors.splitlines() if "steps" not in line and "MB" not in line]
    assert quickstart.interrupted.code == 130
    assert lines[-1] == "run_pipeline: interrupted; run the same command again to resume"
    assert "Traceback" not in quickstart.interrupted.errors


def test_the_second_run_skips_complete_stages_and_the_third_all_of_them(quickstart):
    assert quickstart.resumed.code == 0, quickstart.resumed.errors
    skipped = [line.partition(":")[0] for line in quickstart.resumed.output.splitlines() if "skipped" in line]
    assert skipped == ["build_corpus", "encode_corpus"]
    assert quickstart.repeated.code == 0, quickstart.repeated.errors
    assert quickstart.repeated.output.count("skipped)") == 7


@pytest.mark.parametrize(
    "line",
    [
        r"build_corpus: kept 97 of 206 documents \(109 dropped: \d+ redirect, .*\), [\d,]+ sentences.*, [\d,]+ words",
        r"train_teacher: 3 steps, loss [\d.]+, .* tokens/s in \d",
        r"distill: 3 steps, loss [\d.]+, ce [\d.]+, mlm [\d.]+, cos [\d.]+",
        r"write_report: report.html, README.md of 5 runs; missing: evaluate_glue, ",
        r"check_service: 2 requests answered in \d",
    ],
    ids=lambda line: line.partition(":")[0],
)
def test_each_stage_prints_one_line_with_its_counts(quickstart, line):
    assert re.search(f"^{line}", quickstart.resumed.output, re.M)


def test_the_output_ends_with_the_table_and_the_recorded_responses(quickstart):
    table, _, responses = quickstart.resumed.output.partition("POST /score")
    assert "hit@10" in table.rpartition("check_service:")[2]
    printed = [json.loads(line.strip().removeprefix("-> ")) for line in responses.splitlines() if "  -> " in line]
    recorded = json.loads((quickstart.runs / "service/answers.json").read_text())
    assert printed == [each["answer"] for each in recorded]
    (word,), candidates = printed
    assert isinstance(word, str)
    assert [set(candidate) for candidate in candidates] == [{"score", "token", "token_str", "sequence"}] * 3


def test_every_stage_writes_a_complete_run_that_refers_to_its_input(quickstart):
    manifests = {file.parent.name: read_manifest(str(file.parent)) for file in quickstart.runs.glob("*/manifest.json")}
    assert set(manifests) == {"corpus", "shards", "teacher", "student", "fill_mask", "report", "service"}
    for name, upstream, role in (
        ("shards", "corpus", "corpus"),
        ("student", "teacher", "teacher"),
        ("service", "student", "model"),
    ):
        assert manifests[name]["content"]["inputs"][role]["content_hash"] == manifests[upstream]["content_hash"]


def test_the_report_and_the_card_show_the_results_of_the_runs(quickstart):
    report = quickstart.runs / "report"
    page, card = (report / "report.html").read_text(), ModelCard((report / "README.md").read_text())
    scores = json.loads((quickstart.runs / "fill_mask/scores.json").read_text())
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["hit@10"] == scores["student"]["hit@10"]
    assert "97 documents, 17,969 sentences" in page
    assert page.count("<svg") == 14
    assert "used a different" not in page


def test_no_process_of_the_pipeline_remains(quickstart):
    processes = subprocess.run(["ps", "-eo", "sid,args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in processes.splitlines() if line.split()[0] in quickstart.sessions]
