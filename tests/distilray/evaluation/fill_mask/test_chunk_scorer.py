import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask import pipeline
from distilray.evaluation.fill_mask.chunk_scorer import chunk_numbers, read_chunks
from distilray.evaluation.fill_mask.readers import DataFile, data_files
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.pieces import CompletedPieces
from distilray.runtime.session import is_input_error
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows, write_tiny_gpt2
from tests.tiny.models import write_tiny_model


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two data files and two models."""
    folder = tmp_path_factory.mktemp("fill_mask")
    for name, seed, count in (("a.jsonl", 1, 23), ("b.jsonl", 2, 9)):
        write_rows(folder / "data" / name, rows_of(count, seed=seed))
    for name, architecture in (("teacher", "bert"), ("student", "distilbert")):
        (folder / name).mkdir()
        write_tiny_model(folder / name, architecture)
    return folder


def config_of(work, **changes):
    data = {"path": str(work / "data"), "chunk_rows": 5, **changes.pop("data", {})}
    models = {f"{name}_dir": str(work / name) for name in ("teacher", "student")}
    return EvaluateFillMaskConfig.model_validate(
        {"run_dir": "unused", "precision": "fp32", "data": data, **models, **changes}
    )


def scored(work, folder, **changes):
    """Score the data and return the bytes of the answers by chunk."""
    config = config_of(work, **changes)
    tokenizer_json = read_tokenizer(str(work / "student"))
    files = data_files(config.data)
    chunks = pipeline.score_files(files, config, str(folder), tokenizer_json=tokenizer_json, max_length=48)
    return {chunk: Path(folder, f"answers/{chunk:09d}.parquet").read_bytes() for chunk in chunks}


def test_parts_are_rows_of_one_file_in_order(work, tmp_path):
    config = config_of(work)
    for file in data_files(config.data):
        tables = list(
            read_chunks(file, config, read_tokenizer(str(work / "student")), max_length=48, folder=str(tmp_path))
        )
        rows = {"a.jsonl": [5, 5, 5, 5, 3], "b.jsonl": [5, 4]}[file.name]
        assert [json.loads(table.column("record")[0].as_py())["rows"] for table in tables] == rows
        numbers = [table.column("number")[0].as_py() for table in tables]
        assert numbers == list(chunk_numbers(file.number, len(rows)))
        (fact,) = CompletedPieces(str(tmp_path), "files").records([file.number])
        assert fact == {"chunks": len(rows), "rows": sum(rows)}


def test_the_order_of_the_work_does_not_change_a_byte_of_the_answers(work, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    forwards = scored(work, tmp_path / "a")
    score_in_process(monkeypatch, order=-1)
    assert scored(work, tmp_path / "b") == forwards
    assert len(forwards) == 7


def test_an_interrupted_run_scores_the_incomplete_chunks_with_the_same_result(work, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    whole = scored(work, tmp_path / "a")
    score_in_process(monkeypatch, limit=3)
    with pytest.raises(KeyboardInterrupt):
        scored(work, tmp_path / "b")
    seen: list[int] = []
    score_in_process(monkeypatch, seen=seen)
    assert scored(work, tmp_path / "b") == whole
    assert seen == list(whole)[3:]
    score_in_process(monkeypatch, limit=0)
    assert scored(work, tmp_path / "b") == whole  # a complete one does nothing


def test_an_answer_has_its_place_its_ranks_and_the_best_tokens_of_both_models(work, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    chunks = scored(work, tmp_path)
    tables = [pq.read_table(tmp_path / f"answers/{chunk:09d}.parquet").to_pylist() for chunk in chunks]
    answers = [answer for table in tables for answer in table]
    rows = rows_of(23, seed=1)
    places = [("a.jsonl", number, mask) for number, row in enumerate(rows, 1) for mask in range(len(row["masks"]))]
    assert [(one["file"], one["row"], one["mask"]) for one in answers][: len(places)] == places
    for one in answers:
        assert len(one["teacher_best"]) == len(one["student_best"]) == one["pieces"]
        same = sum(first == second for first, second in zip(one["teacher_best"], one["student_best"], strict=True))
        assert one["same_best"] == same
        assert one["student_left_to_right_rank"] >= 1
        if one["pieces"] == 1:
            assert one["teacher_rank"] == one["teacher_left_to_right_rank"]
            assert one["teacher_loss"] == one["teacher_left_to_right_loss"]
    assert {one["pieces"] for one in answers} >= {1, 2}


def test_bad_rows_are_counted_by_reason_and_listed_with_their_line(work, tmp_path, monkeypatch):
    file = tmp_path / "data/c.jsonl"
    write_rows(file, [{"texts": "<mask>", "masks": ["日本"]}, *rows_of(2), {"texts": "none", "masks": []}])
    file.write_text(file.read_text() + "{broken\n")
    score_in_process(monkeypatch)
    (chunk,) = scored(work, tmp_path / "run", data={"path": str(file)})
    (record,) = CompletedPieces(str(tmp_path / "run"), "chunks").records([chunk])
    assert (record["rows"], record["bad"]) == (5, {"answer_unknown": 1, "no_mask": 1, "json_malformed": 1})
    assert [entry["file"] for entry in record["listed"]] == ["c.jsonl:1", "c.jsonl:4", "c.jsonl:5"]


def test_the_causal_metric_is_of_the_texts_as_each_model_fills_them(work, tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    gpt2 = write_tiny_gpt2(tmp_path / "gpt2")
    rows = [{"texts": "the <mask> sun in <mask>", "masks": ["old", "rome"]}, {"texts": "a <mask>", "masks": ["x"]}]
    write_rows(tmp_path / "d.jsonl", rows)
    score_in_process(monkeypatch)
    data = {"path": str(tmp_path / "d.jsonl"), "scored_masks": "first"}
    (chunk,) = scored(work, tmp_path / "run", data=data, causal={"model_dir": gpt2})
    found = pq.read_table(tmp_path / f"run/predictions/{chunk:09d}.parquet").to_pylist()
    answers = pq.read_table(tmp_path / f"run/answers/{chunk:09d}.parquet").to_pylist()
    assert len(answers) == len(found) == 2
    for model in ("teacher", "student"):
        words = found[0][f"{model}_text"].split()
        assert (words[0], words[2:4]) == ("the", ["sun", "in"])
        assert found[0][f"{model}_text"].startswith(f"the {answers[0][f'{model}_best'][0]} sun in ")
        assert found[1][f"{model}_perplexity"] > 1


def test_the_student_may_stand_alone(work, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    (first, *_) = scored(work, tmp_path, teacher_dir=None)
    names = pq.read_schema(tmp_path / f"answers/{first:09d}.parquet").names
    assert "student_rank" in names
    assert not [name for name in names if name.startswith(("teacher", "same"))]


def is_error(table, name):
    return is_input_error(table) and name in str(table.to_pylist())


def test_an_actor_without_its_model_returns_an_input_error_for_every_part(work, tmp_path):
    config = config_of(work, student_dir=str(tmp_path / "gone"))
    actor = pipeline._ScoreActor(config, str(tmp_path), "cpu", on_cluster=False)
    assert all(is_error(actor(pa.table({"number": [number]})), f"{tmp_path}/gone") for number in (0, 1))


def test_a_file_that_has_vanished_is_an_input_error_that_passes_through_the_actors(work, tmp_path):
    file = DataFile(0, str(tmp_path / "gone.jsonl"), "gone.jsonl", "jsonl", None)
    values = {"config": config_of(work), "folder": str(tmp_path), "tokenizer_json": "unused", "max_length": 48}
    (table,) = pipeline._read_task(pa.table({"item": [asdict(file)]}), **values)
    assert is_error(table, file.uri)
    assert pipeline._ScoreActor(config_of(work), str(tmp_path), "cpu", on_cluster=False)(table) is table


def test_a_fault_of_the_program_in_an_actor_stays_an_exception(work, tmp_path):
    actor = pipeline._ScoreActor(config_of(work), str(tmp_path), "cpu", on_cluster=False)
    with pytest.raises(KeyError):
        actor(pa.table({"unknown": [0]}))
