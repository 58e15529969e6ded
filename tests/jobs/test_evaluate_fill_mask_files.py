"""Fill-mask evaluation on files, without Ray; tests/distilray/evaluation/fill_mask/test_pipeline.py uses Ray."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.jobs.commands import read_json, run_job
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows, write_tiny_gpt2
from tests.tiny.models import write_tiny_model


@pytest.fixture(scope="module", autouse=True)
def _in_process(one_thread):
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows in the format of rcds and models, of which `other` has another tokenizer."""
    folder = tmp_path_factory.mktemp("fill_mask")
    write_rows(folder / "data.jsonl", rows_of(60))
    for name, architecture in (("teacher", "bert"), ("student", "distilbert"), ("other", "bert")):
        (folder / name).mkdir()
        write_tiny_model(folder / name, architecture)
    tokenizer = folder / "other/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"lowercase": true', '"lowercase": false'))
    return folder


def run(folder, run_dir, *overrides, **values):
    recipe = {
        "data": {"path": str(folder / "data.jsonl"), "chunk_rows": 16},
        "precision": "fp32",
        "latency_examples": 3,
        **{f"{name}_dir": str(folder / name) for name in ("teacher", "student")},
        **values,
    }
    return run_job(
        "evaluate_fill_mask", run_dir, *overrides, **{key: value for key, value in recipe.items() if value is not None}
    )


def scores_of(run_dir):
    return read_json(run_dir / "scores.json")


@pytest.fixture(scope="module")
def scored(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("scored") / "run"
    assert run(folder, run_dir) == 0
    return run_dir


def test_scores_are_those_of_the_answers_in_the_files(scored):
    scores = scores_of(scored)
    answers = [row for file in sorted((scored / "answers").iterdir()) for row in pq.read_table(file).to_pylist()]
    several = [answer for answer in answers if answer["pieces"] > 1]
    pieces = sum(answer["pieces"] for answer in answers)
    assert (scores["examples"], scores["rows"], scores["bad"]) == (60, 60, {})
    assert (scores["masks"], scores["pieces"]) == (len(answers), pieces)
    assert scores["answers_of_several_pieces"] == len(several)
    for name in ("teacher", "student"):
        ranks = np.array([answer[f"{name}_rank"] for answer in answers])
        assert scores[name]["hit@5"] == pytest.approx((ranks <= 5).mean())
        assert scores[name]["mrr"] == pytest.approx((1 / ranks).mean())
        assert scores[name]["median_rank"] == np.median(ranks)
        loss = sum(answer[f"{name}_loss"] for answer in answers) / pieces
        assert scores[name]["pseudo_perplexity"] == pytest.approx(math.exp(loss))
        exact = np.mean([answer[f"{name}_left_to_right_rank"] == 1 for answer in several])
        assert scores[name]["left_to_right_exact"] == pytest.approx(exact)
        loss = sum(answer[f"{name}_left_to_right_loss"] for answer in several)
        loss /= sum(answer["pieces"] for answer in several)
        assert scores[name]["left_to_right_perplexity"] == pytest.approx(math.exp(loss))
        assert scores[name]["latency_ms"] > 0
    assert scores["agreement"] == pytest.approx(sum(answer["same_best"] for answer in answers) / pieces)
    low, high = scores["intervals"]["difference"]["mrr"]
    assert low <= scores["student"]["mrr"] - scores["teacher"]["mrr"] <= high
    assert scores["intervals"]["texts"] == 60


def test_a_complete_run_is_skipped_and_its_scores_are_printed(folder, scored, capsys):
    assert run(folder, scored) == 0
    output = capsys.readouterr().out
    assert "masks in 60 texts, 0 bad rows, hit@10 teacher" in output
    for text in ("skipped", "MRR", "median rank", "left to right", "difference, 95%", "same best token"):
        assert text in output
    assert "…" not in output


def test_the_first_rows_of_all_files_are_scored_in_one_pass_without_left_to_right(folder, tmp_path):
    for name in ("a", "b"):
        write_rows(tmp_path / f"data/{name}.jsonl", rows_of(12))
    data = {"path": f"{tmp_path}/data", "chunk_rows": 7, "left_to_right": False}
    assert run(folder, tmp_path / "run", data=data, max_examples=20) == 0
    scores = scores_of(tmp_path / "run")
    assert (scores["rows"], scores["examples"]) == (20, 20)
    assert not [key for key in scores["student"] if key.startswith(("joint", "left"))]


def test_plain_text_has_the_same_masks_in_every_run_with_the_same_seed(folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(row["texts"].replace("<mask>", "cat") for row in rows_of(30)))
    ranks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        overrides = (f"data.path={text}", f"seed={seed}", "data.masked_fraction=0.3", "bootstrap.resamples=0")
        assert run(folder, tmp_path / name / "run", *overrides, teacher_dir=None) == 0
        ranks.append(scores_of(tmp_path / name / "run")["student"]["mean_rank"])
    assert ranks[0] == ranks[1] != ranks[2]


@pytest.mark.parametrize(("bad", "limit", "code"), [(1, 0.05, 0), (4, 0.05, 1), (4, 0.2, 0)])
def test_bad_rows_fail_the_run_only_above_the_limit(folder, tmp_path, capfd, bad, limit, code):
    file, run_dir = tmp_path / "data.jsonl", tmp_path / "run"
    write_rows(file, [*rows_of(30), *[{"texts": "no mask", "masks": []}] * bad])
    overrides = [f"data.path={file}", "teacher_dir=null"]
    assert run(folder, run_dir, *overrides, f"fault_tolerance.max_bad_fraction={limit}") == code
    listed = [json.loads(line) for line in (run_dir / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in listed] == [f"data.jsonl:{line}" for line in range(31, 31 + bad)]
    if code:
        first, *positions = capfd.readouterr().err.splitlines()
        assert f"{bad} of {30 + bad} (no_mask {bad})" in first
        assert len(positions) == bad
        assert run(folder, run_dir, *overrides, "fault_tolerance.max_bad_fraction=0.5") == 0  # resumes
    assert scores_of(run_dir)["bad"] == {"no_mask": bad}


def test_a_recipe_with_the_names_of_azure_gives_its_metric_under_our_name(folder, tmp_path, capsys):
    rows = [{"input_string": row["texts"].replace("<mask>", "[MASK]"), "title": row["masks"][0]} for row in rows_of(20)]
    (tmp_path / "gpt2").mkdir()
    azure = {
        "task": "fill-mask",
        "test_data": write_rows(tmp_path / "small.jsonl", rows),
        "mlflow_model": str(folder / "student"),
        "input_column_names": "input_string",
        "label_column_name": "title",
        "device": "cpu",
        "evaluation_config_params": json.dumps(
            {"metrics": ["perplexities"], "model_id": write_tiny_gpt2(tmp_path / "gpt2")}
        ),
    }
    assert run(folder, tmp_path / "run", data=None, teacher_dir=None, student_dir=None, **azure) == 0
    scores = scores_of(tmp_path / "run")
    assert scores["masks"] == scores["examples"] == 20
    (file,) = (tmp_path / "run/predictions").iterdir()
    perplexities = pq.read_table(file).column("student_perplexity").to_pylist()
    metric = "causal_perplexity_of_predictions"
    assert scores["student"][metric] == pytest.approx(np.mean(perplexities))
    assert scores["student"][f"{metric}_median"] == pytest.approx(np.median(perplexities))
    assert scores["causal_too_short"] == {"student": 0}
    assert "causal perplexity of the filled texts" in capsys.readouterr().out


def test_models_with_different_tokenizers_are_rejected(folder, tmp_path, error_line):
    assert "two tokenizers" in error_line(run(folder, tmp_path / "run", f"teacher_dir={folder}/other"))


def test_an_mlflow_folder_is_the_model_inside_it(folder, tmp_path):
    inside = tmp_path / "mlflow/data/model"
    inside.parent.mkdir(parents=True)
    inside.symlink_to(folder / "student", target_is_directory=True)
    overrides = (f"student_dir={tmp_path}/mlflow", "teacher_dir=null", "max_examples=5")
    assert run(folder, tmp_path / "run", *overrides) == 0
