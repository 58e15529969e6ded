"""Fill-mask evaluation on held-out shards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilray.models.masked_lm import load_masked_lm, save_model
from distilray.models.student import create_student
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.jobs.commands import read_json, run_job
from tests.tiny.corpus import sentences_of
from tests.tiny.shards import open_shards

MASK, EXAMPLES = 4, 20

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, shards_dir, teacher_dir, tokenizer_dir):
    """Shards, a teacher, and a student in the run folder of `distill`, by the keys of the recipe."""
    student_dir = tmp_path_factory.mktemp("student")
    (student_dir / "model").mkdir()
    student, _ = create_student(load_masked_lm(teacher_dir))
    save_model(student, student_dir / "model", read_tokenizer(tokenizer_dir))
    return {"shards_dir": shards_dir, "teacher_dir": teacher_dir, "student_dir": str(student_dir)}


def run(folders, run_dir, *overrides):
    settings = {"precision": "fp32", "max_examples": EXAMPLES, "batch_size": 4, "latency_examples": 2}
    return run_job("evaluate_fill_mask", run_dir, *overrides, **folders, **settings)


@pytest.fixture(scope="module")
def scored(folders, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("scores") / "run"
    assert run(folders, run_dir) == 0
    return run_dir


@pytest.fixture(scope="module")
def scores(scored):
    return read_json(scored / "scores.json")


def model_dirs(folders):
    return {"teacher": folders["teacher_dir"], "student": f"{folders['student_dir']}/model"}


def reference_scores(model_dir, shards):
    """Return ranks, losses and best tokens of the masks, computed one example at a time with transformers."""
    model = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    ranks, losses, best = [], [], []
    for shard, row in shards.locate(np.arange(EXAMPLES)):
        ids = shard.input_ids.row(row).astype(np.int64)
        positions = shard.mask_positions.row(row).astype(np.int64)
        ids[positions] = MASK
        inputs = {"input_ids": torch.from_numpy(ids)[None]}
        if model.config.model_type == "bert":
            inputs["token_type_ids"] = torch.from_numpy(np.arange(len(ids)) >= shard.segment_b_start[row]).long()[None]
        with torch.no_grad():
            logits = model(**inputs).logits[0].double().numpy()
        for position, label in zip(positions, shard.mask_labels.row(row), strict=True):
            own = logits[position]
            ranks.append(int(sum(other >= own[label] for other in own)))
            losses.append(float(np.log(np.exp(own).sum()) - own[label]))
            best.append(int(own.argmax()))
    return np.array(ranks), np.array(losses), best


def test_scores_are_those_of_transformers(folders, scores):
    shards, best = open_shards(folders["shards_dir"], "heldout"), {}
    for name, model_dir in model_dirs(folders).items():
        ranks, losses, best[name] = reference_scores(model_dir, shards)
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


def test_the_best_answers_to_sentences_of_the_corpus_are_those_of_transformers(folders, scored):
    rows = [json.loads(line) for line in (scored / "sentences.jsonl").read_text().splitlines()]
    sentences = {sentence for document in sentences_of(40) for sentence in document}
    assert rows
    assert {row["text"].replace("[MASK]", row["answer"]) for row in rows} <= sentences
    for name, model_dir in model_dirs(folders).items():
        fill = pipeline("fill-mask", model=model_dir, tokenizer=AutoTokenizer.from_pretrained(model_dir), device="cpu")
        for row in rows:
            expected = fill(row["text"], top_k=3)
            assert [answer["token"] for answer in row["answers"][name]] == [each["token_str"] for each in expected]
            scores = [answer["score"] for answer in row["answers"][name]]
            assert scores == pytest.approx([each["score"] for each in expected], rel=1e-4)


def test_every_score_and_difference_is_inside_its_confidence_interval(scores):
    intervals = scores["intervals"]
    assert (intervals["level"], intervals["resamples"], intervals["texts"]) == (0.95, 1000, EXAMPLES)
    keys = {"hit@1", "hit@5", "hit@10", "mrr", "median_rank", "mean_rank", "pseudo_perplexity"}
    for name in ("teacher", "student"):
        assert intervals[name].keys() == keys
        for key, (low, high) in intervals[name].items():
            assert low <= scores[name][key] <= high
    for key, (low, high) in intervals["difference"].items():
        assert low <= scores["student"][key] - scores["teacher"][key] <= high
    assert intervals["agreement"][0] <= scores["agreement"] <= intervals["agreement"][1]


def test_sizes_are_those_of_the_models_and_latencies_are_positive(folders, scores):
    for name, model_dir in model_dirs(folders).items():
        model = AutoModelForMaskedLM.from_pretrained(model_dir)
        assert scores[name]["megabytes"] == Path(model_dir, "model.safetensors").stat().st_size / 1e6
        assert scores[name]["parameters"] == model.num_parameters()
        assert 0 < scores[name]["latency_ms"] <= scores[name]["latency_p95_ms"]


def test_a_copy_of_the_teacher_has_all_its_scores(folders, tmp_path, capsys):
    shutil.copytree(folders["teacher_dir"], tmp_path / "copy")
    assert run(folders, tmp_path / "run", f"student_dir={tmp_path}/copy") == 0
    scores = read_json(tmp_path / "run/scores.json")
    assert scores["agreement"] == 1.0
    for key in ("hit@1", "hit@5", "hit@10", "mrr", "pseudo_perplexity", "parameters", "megabytes"):
        assert scores["student"][key] == scores["teacher"][key]
    assert all(bounds == [0, 0] for bounds in scores["intervals"]["difference"].values())
    table = capsys.readouterr().out
    assert "100.0% kept" in table
    assert all("100.0%" in line for line in table.splitlines() if "hit@" in line or "MRR" in line)


def test_a_student_can_be_scored_without_a_teacher(folders, scores, tmp_path, capsys):
    overrides = ("teacher_dir=null", "bootstrap.resamples=0", "latency_examples=0")
    assert run(folders, tmp_path / "run", *overrides) == 0
    alone = read_json(tmp_path / "run/scores.json")
    assert not {"teacher", "agreement", "intervals"} & alone.keys()
    assert alone["student"].items() <= scores["student"].items()
    assert "hit@10" in capsys.readouterr().out
