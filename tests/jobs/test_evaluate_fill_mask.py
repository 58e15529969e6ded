import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from distilray.evaluation.fill_mask import scoring
from distilray.models.masked_lm import load_masked_lm, save_model
from distilray.models.student import create_student
from distilray.pretraining_data.tokenizer import read_tokenizer
from jobs import evaluate_fill_mask
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import open_shards, write_shards

MASK, EXAMPLES = 4, 20


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Shards, a teacher, and a student in a run folder as `distill` leaves it."""
    work = tmp_path_factory.mktemp("line")
    tokenizer_dir = write_tokenizer(work / "tokenizer")
    write_shards(work / "shards", tokenizer_dir)
    write_teacher(work / "teacher", tokenizer_dir)
    student, _ = create_student(load_masked_lm(str(work / "teacher")))
    (work / "student/model").mkdir(parents=True)
    save_model(student, work / "student/model", read_tokenizer(tokenizer_dir))
    return work


def run(folders, run_dir, *overrides):
    values = {f"{name}_dir": str(folders / name) for name in ("shards", "teacher", "student")}
    run_dir.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(
        run_dir.parent,
        run_dir=str(run_dir),
        precision="fp32",
        max_examples=EXAMPLES,
        batch_size=4,
        latency_examples=2,
        **values,
    )
    return evaluate_fill_mask.main(["--recipe", recipe, *overrides])


@pytest.fixture(scope="module")
def scores(folders, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("scores") / "run"
    assert run(folders, run_dir) == 0
    return json.loads((run_dir / "scores.json").read_text())


def plain_scores(model_dir, shards):
    """Ranks and losses of the first examples, one at a time, with the full logits of transformers."""
    model = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    ranks, losses, best = [], [], []
    for shard, row in shards.locate(np.arange(EXAMPLES)):
        ids = shard.input_ids.row(row).astype(np.int64)
        places = shard.mask_positions.row(row).astype(np.int64)
        ids[places] = MASK
        inputs = {"input_ids": torch.from_numpy(ids)[None]}
        if model.config.model_type == "bert":
            inputs["token_type_ids"] = torch.from_numpy(np.arange(len(ids)) >= shard.segment_b_start[row]).long()[None]
        with torch.no_grad():
            logits = model(**inputs).logits[0].double().numpy()
        for place, label in zip(places, shard.mask_labels.row(row), strict=True):
            own = logits[place]
            ranks.append(int(sum(other >= own[label] for other in own)))
            losses.append(float(np.log(np.exp(own).sum()) - own[label]))
            best.append(int(own.argmax()))
    return np.array(ranks), np.array(losses), best


def test_the_scores_are_what_transformers_and_counting_give(folders, scores):
    shards, best = open_shards(str(folders / "shards"), "heldout"), {}
    for name, model_dir in (("teacher", folders / "teacher"), ("student", folders / "student/model")):
        ranks, losses, best[name] = plain_scores(model_dir, shards)
        assert scores["masks"] == len(ranks) > 50
        for k in (1, 5, 10):
            assert scores[name][f"hit@{k}"] == pytest.approx(np.mean(ranks <= k))
        assert scores[name]["mrr"] == pytest.approx(np.mean(1 / ranks), rel=1e-6)
        assert scores[name]["pseudo_perplexity"] == pytest.approx(np.exp(losses.mean()), rel=1e-4)
        assert scores[name]["median_rank"] == np.median(ranks)
        assert scores[name]["mean_rank"] == pytest.approx(np.mean(ranks))
    same = [one == two for one, two in zip(best["teacher"], best["student"], strict=True)]
    assert scores["agreement"] == pytest.approx(np.mean(same))
    assert 0 < scores["agreement"] < 1


def test_every_score_lies_in_its_interval_and_so_does_the_difference(scores):
    intervals = scores["intervals"]
    assert (intervals["level"], intervals["resamples"], intervals["texts"]) == (0.95, 1000, EXAMPLES)
    keys = {"hit@1", "hit@5", "hit@10", "mrr", "median_rank", "mean_rank", "pseudo_perplexity"}
    for name in ("teacher", "student"):
        assert set(intervals[name]) == keys
        for key, (low, high) in intervals[name].items():
            assert low <= scores[name][key] <= high
    for key, (low, high) in intervals["difference"].items():
        assert low <= scores["student"][key] - scores["teacher"][key] <= high
    assert intervals["agreement"][0] <= scores["agreement"] <= intervals["agreement"][1]


def test_size_and_latency_are_those_of_the_model(folders, scores):
    for name, model_dir in (("teacher", folders / "teacher"), ("student", folders / "student/model")):
        assert scores[name]["megabytes"] == (model_dir / "model.safetensors").stat().st_size / 1e6
        assert scores[name]["parameters"] == AutoModelForMaskedLM.from_pretrained(model_dir).num_parameters()
        assert 0 < scores[name]["latency_ms"] <= scores[name]["latency_p95_ms"]


def test_the_models_see_a_mask_at_every_predicted_position_and_no_other_change(folders, tmp_path, monkeypatch):
    seen, encode = [], scoring.encode

    def watched(model, input_ids, attention_mask, token_type_ids):
        seen.extend(ids[real.bool()].tolist() for ids, real in zip(input_ids, attention_mask, strict=True))
        return encode(model, input_ids, attention_mask, token_type_ids)

    monkeypatch.setattr(scoring, "encode", watched)
    assert run(folders, tmp_path / "run") == 0
    expected, shown = [], []
    for shard, row in open_shards(str(folders / "shards"), "heldout").locate(np.arange(EXAMPLES)):
        ids = shard.input_ids.row(row).copy()
        shown.extend(ids[shard.mask_positions.row(row)].tolist())
        ids[shard.mask_positions.row(row)] = MASK
        expected.append(ids.tolist())
    assert set(shown) > {MASK}  # the shards themselves show another token at some of them
    assert {tuple(ids) for ids in seen} == {tuple(ids) for ids in expected}


@pytest.mark.parametrize("batch_size", [1, 64])
def test_the_batch_size_does_not_change_the_scores(folders, scores, tmp_path, batch_size):
    assert run(folders, tmp_path / "run", f"batch_size={batch_size}") == 0
    found = json.loads((tmp_path / "run/scores.json").read_text())
    for name in ("teacher", "student"):
        for key in ("hit@1", "hit@10", "mrr", "pseudo_perplexity"):
            assert found[name][key] == pytest.approx(scores[name][key], rel=1e-4)


def test_a_copy_of_the_teacher_keeps_everything(folders, tmp_path, capsys):
    shutil.copytree(folders / "teacher", tmp_path / "copy")
    assert run(folders, tmp_path / "run", f"student_dir={tmp_path}/copy") == 0
    found = json.loads((tmp_path / "run/scores.json").read_text())
    assert found["agreement"] == 1.0
    for key in ("hit@1", "hit@5", "hit@10", "mrr", "pseudo_perplexity", "parameters", "megabytes"):
        assert found["student"][key] == found["teacher"][key]
    assert all(bounds == [0, 0] for bounds in found["intervals"]["difference"].values())
    table = capsys.readouterr().out
    assert "100.0% kept" in table
    assert all("100.0%" in line for line in table.splitlines() if "hit@" in line or "MRR" in line)


def test_two_runs_have_the_same_content_whatever_the_clock_says(folders, tmp_path):
    hashes = set()
    for name in ("a", "b"):
        assert run(folders, tmp_path / name) == 0
        hashes.add(json.loads((tmp_path / name / "manifest.json").read_text())["content_hash"])
    assert len(hashes) == 1


def test_a_complete_run_is_skipped_and_its_table_shown_again(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run") == 0
    first = capsys.readouterr().out
    assert run(folders, tmp_path / "run") == 0
    second = capsys.readouterr().out
    assert "skipped" in second
    assert second.splitlines()[1:] == first.splitlines()[1:]


def refusal(folders, tmp_path, capfd, *overrides):
    assert run(folders, tmp_path / "run", *overrides) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_model_of_another_tokenizer_is_reported_in_one_line_that_says_so(folders, tmp_path, capfd, name):
    copy = tmp_path / "other"
    shutil.copytree(folders / "teacher", copy)
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    line = refusal(folders, tmp_path, capfd, f"{name}_dir={copy}")
    assert f"{folders}/shards: encoded with tokenizer" in line


@pytest.mark.parametrize("name", ["shards", "teacher", "student"])
def test_a_missing_input_is_one_line_that_names_it(folders, tmp_path, capfd, name):
    assert f"{tmp_path}/none" in refusal(folders, tmp_path, capfd, f"{name}_dir={tmp_path}/none")


def test_the_student_alone_has_its_scores_without_a_teacher(folders, scores, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "teacher_dir=null", "bootstrap.resamples=0", "latency_examples=0") == 0
    found = json.loads((tmp_path / "run/scores.json").read_text())
    assert not {"teacher", "agreement", "intervals"} & found.keys()
    assert found["student"].items() <= scores["student"].items()
    assert "hit@10" in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_writes_nothing(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "--dry-run") == 0
    assert "20 examples" in capsys.readouterr().out
    assert list((tmp_path / "run").iterdir()) == []
