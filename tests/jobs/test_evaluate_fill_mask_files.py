"""The job on data in files, without Ray; tests/distilray/evaluation/fill_mask/test_pipeline.py has it with Ray."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs import evaluate_fill_mask
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows, write_tiny_gpt2
from tests.tiny.models import write_tiny_model
from tests.tiny.recipes import write_recipe


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    score_in_process(monkeypatch)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fill_mask")
    write_rows(folder / "data.jsonl", rows_of(60))
    for name, architecture in (("teacher", "bert"), ("student", "distilbert"), ("other", "bert")):
        (folder / name).mkdir()
        write_tiny_model(folder / name, architecture)
    tokenizer = folder / "other/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"lowercase": true', '"lowercase": false'))
    return folder


def run(work, run_dir, *overrides, **values):
    run_dir.mkdir(parents=True, exist_ok=True)
    given = {
        "run_dir": str(run_dir / "run"),
        "data": {"path": str(work / "data.jsonl"), "chunk_rows": 16},
        "precision": "fp32",
        "latency_examples": 3,
        **{f"{name}_dir": str(work / name) for name in ("teacher", "student")},
        **values,
    }
    recipe = write_recipe(run_dir, **{key: value for key, value in given.items() if value is not None})
    return evaluate_fill_mask.main(["--recipe", recipe, *overrides])


def found(run_dir, name="scores.json"):
    return json.loads((run_dir / "run" / name).read_text())


@pytest.fixture
def scored(work, tmp_path):
    assert run(work, tmp_path) == 0
    return tmp_path


def test_the_scores_are_those_of_the_answers_in_the_files(scored, capsys):
    scores = found(scored)
    answers = [row for file in sorted((scored / "run/answers").iterdir()) for row in pq.read_table(file).to_pylist()]
    several = [one for one in answers if one["pieces"] > 1]
    pieces = sum(one["pieces"] for one in answers)
    assert (scores["examples"], scores["rows"], scores["bad"]) == (60, 60, {})
    assert (scores["masks"], scores["pieces"], scores["answers_of_several_pieces"]) == (
        len(answers),
        pieces,
        len(several),
    )
    for name in ("teacher", "student"):
        ranks = np.array([one[f"{name}_rank"] for one in answers])
        assert scores[name]["hit@5"] == pytest.approx((ranks <= 5).mean())
        assert scores[name]["mrr"] == pytest.approx((1 / ranks).mean())
        assert scores[name]["median_rank"] == np.median(ranks)
        total = sum(one[f"{name}_loss"] for one in answers)
        assert scores[name]["pseudo_perplexity"] == pytest.approx(math.exp(total / pieces))
        exact = np.mean([one[f"{name}_left_to_right_rank"] == 1 for one in several])
        assert scores[name]["left_to_right_exact"] == pytest.approx(exact)
        loss = sum(one[f"{name}_left_to_right_loss"] for one in several) / sum(one["pieces"] for one in several)
        assert scores[name]["left_to_right_perplexity"] == pytest.approx(math.exp(loss))
        assert scores[name]["latency_ms"] > 0
    assert scores["agreement"] == pytest.approx(sum(one["same_best"] for one in answers) / pieces)
    low, high = scores["intervals"]["difference"]["mrr"]
    assert low <= scores["student"]["mrr"] - scores["teacher"]["mrr"] <= high
    assert scores["intervals"]["texts"] == 60


def test_the_table_and_the_line_tell_the_scores(work, tmp_path, capsys):
    assert run(work, tmp_path) == 0
    output = capsys.readouterr().out
    assert "masks in 60 texts, 0 bad rows, hit@10 teacher" in output
    for word in ("MRR", "median rank", "left to right", "difference, 95%", "same best token"):
        assert word in output
    assert "…" not in output


def test_without_left_to_right_nothing_is_told_of_it(work, tmp_path):
    assert run(work, tmp_path, "data.left_to_right=false") == 0
    assert not [key for key in found(tmp_path)["student"] if key.startswith(("joint", "left"))]


def test_the_first_rows_of_all_files_are_used(work, tmp_path):
    for name in ("a", "b"):
        write_rows(tmp_path / f"data/{name}.jsonl", rows_of(12))
    assert run(work, tmp_path, f"data.path={tmp_path}/data", "max_examples=20", "data.chunk_rows=7") == 0
    assert (found(tmp_path)["rows"], found(tmp_path)["examples"]) == (20, 20)


def test_plain_text_is_masked_by_us_alike_in_every_run(work, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(row["texts"].replace("<mask>", "cat") for row in rows_of(30)))
    scores = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(work, tmp_path / name, f"data.path={text}", f"seed={seed}", "data.masked_fraction=0.3") == 0
        scores.append(found(tmp_path / name)["student"]["mean_rank"])
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(("bad", "limit", "code"), [(1, 0.05, 0), (4, 0.05, 1), (4, 0.2, 0)])
def test_bad_rows_are_fatal_above_the_limit_only(work, tmp_path, capfd, bad, limit, code):
    file = tmp_path / "data.jsonl"
    write_rows(file, [*rows_of(30), *[{"texts": "no mask", "masks": []}] * bad])
    assert run(work, tmp_path, f"data.path={file}", f"fault_tolerance.max_bad_fraction={limit}") == code
    listed = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in listed] == [f"data.jsonl:{line}" for line in range(31, 31 + bad)]
    if code:
        first, *places = capfd.readouterr().err.splitlines()
        assert f"{bad} of {30 + bad} (no_mask {bad})" in first
        assert len(places) == bad
        assert (
            run(work, tmp_path, f"data.path={file}", "fault_tolerance.max_bad_fraction=0.5") == 0
        )  # goes on where it was
    assert found(tmp_path)["bad"] == {"no_mask": bad}


def test_a_recipe_in_azures_names_gives_their_metric_under_our_name(work, tmp_path, capsys):
    rows = [{"input_string": row["texts"].replace("<mask>", "[MASK]"), "title": row["masks"][0]} for row in rows_of(20)]
    (tmp_path / "gpt2").mkdir()
    params = json.dumps({"metrics": ["perplexities"], "model_id": write_tiny_gpt2(tmp_path / "gpt2")})
    azure = {
        "task": "fill-mask",
        "test_data": write_rows(tmp_path / "small.jsonl", rows),
        "mlflow_model": str(work / "student"),
        "input_column_names": "input_string",
        "label_column_name": "title",
        "device": "cpu",
        "evaluation_config_params": params,
    }
    assert run(work, tmp_path, data=None, teacher_dir=None, student_dir=None, **azure) == 0
    scores = found(tmp_path)
    assert scores["masks"] == scores["examples"] == 20
    texts = pq.read_table(next((tmp_path / "run/predictions").iterdir())).column("student_perplexity").to_pylist()
    metric = "causal_perplexity_of_predictions"
    assert scores["student"][metric] == pytest.approx(np.mean(texts))
    assert scores["student"][f"{metric}_median"] == pytest.approx(np.median(texts))
    assert scores["causal_too_short"] == {"student": 0}
    assert "causal perplexity of the filled texts" in capsys.readouterr().out


def refusal(work, tmp_path, capfd, *overrides, **values):
    assert run(work, tmp_path, *overrides, **values) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_an_absent_causal_model_is_reported_in_one_line_that_says_what_the_metric_is(work, tmp_path, capfd):
    message = refusal(work, tmp_path, capfd, "causal.model_dir=gpt2")
    assert "gpt2: no such folder; causal_perplexity_of_predictions is" in message


def test_models_of_two_tokenizers_are_refused(work, tmp_path, capfd):
    assert "two tokenizers" in refusal(work, tmp_path, capfd, f"teacher_dir={work}/other")


def test_a_window_that_a_model_cannot_read_is_refused(work, tmp_path, capfd):
    assert "data.max_length: 49 tokens" in refusal(work, tmp_path, capfd, "data.max_length=49")


def test_absent_and_useless_data_are_reported_in_one_line_that_names_them(work, tmp_path, capfd):
    assert f"{tmp_path}/none" in refusal(work, tmp_path, capfd, f"data.path={tmp_path}/none")
    write_rows(tmp_path / "x.jsonl", [{"text": "a"}])
    assert "no 'texts' among 'text'" in refusal(work, tmp_path, capfd, f"data.path={tmp_path}/x.jsonl")


def test_all_absent_inputs_are_reported_in_one_line_that_names_them(work, tmp_path, capfd):
    absent = ["data.path=a.jsonl", "student_dir=b", "teacher_dir=c", "causal.model_dir=d"]
    line = refusal(work, tmp_path, capfd, *absent)
    for name in ("a.jsonl", "b", "c", "d"):
        assert f" {name}: no such" in line


def test_an_mlflow_folder_is_the_model_inside_it(work, tmp_path):
    inside = tmp_path / "mlflow/data/model"
    inside.parent.mkdir(parents=True)
    inside.symlink_to(work / "student", target_is_directory=True)
    assert run(work, tmp_path, f"student_dir={tmp_path}/mlflow", "teacher_dir=null") == 0


def test_a_dry_run_prints_the_plan_and_writes_nothing(work, tmp_path, capsys):
    assert run(work, tmp_path, "--dry-run") == 0
    output = capsys.readouterr().out
    assert "all rows of 1 files (jsonl)" in output
    assert "48 tokens" in output
    assert not Path(tmp_path, "run").exists()


def test_a_complete_run_is_skipped(work, scored, capsys):
    assert run(work, scored) == 0
    assert "skipped" in capsys.readouterr().out
