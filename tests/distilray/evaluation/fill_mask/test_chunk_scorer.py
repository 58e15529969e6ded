import json
import lzma
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.evaluation.fill_mask import pipeline
from distilray.evaluation.fill_mask.chunk_scorer import chunk_numbers, read_chunks
from distilray.evaluation.fill_mask.readers import DataFile, data_files
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.pieces import CompletedPieces
from distilray.runtime.session import is_input_error
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows, write_tiny_gpt2


def read(folder, kind, chunks):
    return [row for chunk in chunks for row in pq.read_table(folder / f"{kind}/{chunk:09d}.parquet").to_pylist()]


def test_a_chunk_contains_consecutive_rows_of_one_file(config_of, tmp_path):
    config = config_of()
    tokenizer_json = read_tokenizer(config.student_dir)
    for file in data_files(config.data):
        tables = list(read_chunks(file, config, tokenizer_json, max_length=48, folder=str(tmp_path)))
        rows = {"a.jsonl": [5, 5, 5, 5, 3], "b.jsonl.xz": [5, 4]}[file.name]
        assert [json.loads(table.column("record")[0].as_py())["rows"] for table in tables] == rows
        numbers = [table.column("number")[0].as_py() for table in tables]
        assert numbers == list(chunk_numbers(file.number, len(rows)))
        (record,) = CompletedPieces(str(tmp_path), "files").records([file.number])
        assert record == {"chunks": len(rows), "rows": sum(rows)}


def test_order_and_interruptions_do_not_change_a_byte_of_the_answers(scored, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    expected = scored(tmp_path / "forwards")
    assert len(expected) == 7
    score_in_process(monkeypatch, order=-1)
    assert scored(tmp_path / "backwards") == expected
    score_in_process(monkeypatch, limit=3)
    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path / "interrupted")
    resumed = []
    score_in_process(monkeypatch, seen=resumed)
    assert scored(tmp_path / "interrupted") == expected
    assert resumed == list(expected)[3:]
    score_in_process(monkeypatch, limit=0)
    assert scored(tmp_path / "interrupted") == expected  # a complete run scores nothing


def test_an_answer_has_its_position_its_ranks_and_the_best_tokens_of_both_models(scored, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    answers = read(tmp_path, "answers", scored(tmp_path))
    rows = [("a.jsonl", *row) for row in enumerate(rows_of(23, seed=1), 1)]
    rows += [("b.jsonl.xz", *row) for row in enumerate(rows_of(9, seed=2), 1)]
    positions = [(file, number, mask) for file, number, row in rows for mask in range(len(row["masks"]))]
    assert [(answer["file"], answer["row"], answer["mask"]) for answer in answers] == positions
    for answer in answers:
        assert len(answer["teacher_best"]) == len(answer["student_best"]) == answer["pieces"]
        pairs = zip(answer["teacher_best"], answer["student_best"], strict=True)
        assert answer["same_best"] == sum(first == second for first, second in pairs)
        assert answer["student_left_to_right_rank"] >= 1
        if answer["pieces"] == 1:
            assert answer["teacher_rank"] == answer["teacher_left_to_right_rank"]
            assert answer["teacher_loss"] == answer["teacher_left_to_right_loss"]
    assert {answer["pieces"] for answer in answers} >= {1, 2}


def test_bad_rows_are_counted_by_reason_and_listed_by_line(scored, tmp_path, monkeypatch):
    file = tmp_path / "data/c.jsonl"
    write_rows(file, [{"texts": "<mask>", "masks": ["日本"]}, *rows_of(2), {"texts": "none", "masks": []}])
    file.write_text(file.read_text() + "{broken\n")
    score_in_process(monkeypatch)
    chunks = scored(tmp_path / "run", data={"path": str(file)})
    (record,) = CompletedPieces(str(tmp_path / "run"), "chunks").records(list(chunks))
    assert (record["rows"], record["bad"]) == (5, {"answer_unknown": 1, "no_mask": 1, "json_malformed": 1})
    assert [row["file"] for row in record["listed"]] == ["c.jsonl:1", "c.jsonl:4", "c.jsonl:5"]


def test_the_causal_metric_scores_the_texts_as_each_model_fills_them(scored, tmp_path, monkeypatch):
    rows = [{"texts": "the <mask> sun in <mask>", "masks": ["old", "rome"]}, {"texts": "a <mask>", "masks": ["x"]}]
    write_rows(tmp_path / "d.jsonl", rows)
    (tmp_path / "gpt2").mkdir()
    causal = {"model_dir": write_tiny_gpt2(tmp_path / "gpt2")}
    score_in_process(monkeypatch)
    data = {"path": str(tmp_path / "d.jsonl"), "scored_masks": "first"}
    chunks = scored(tmp_path / "run", data=data, causal=causal)
    predictions, answers = (read(tmp_path / "run", kind, chunks) for kind in ("predictions", "answers"))
    assert len(answers) == len(predictions) == 2
    for model in ("teacher", "student"):
        words = predictions[0][f"{model}_text"].split()
        assert words[:4] == ["the", answers[0][f"{model}_best"][0], "sun", "in"]
        assert predictions[1][f"{model}_perplexity"] > 1


def test_a_student_can_be_scored_without_a_teacher(scored, tmp_path, monkeypatch):
    score_in_process(monkeypatch)
    (first, *_) = scored(tmp_path, teacher_dir=None)
    names = pq.read_schema(tmp_path / f"answers/{first:09d}.parquet").names
    assert "student_rank" in names
    assert not [name for name in names if name.startswith(("teacher", "same"))]


def test_an_input_error_passes_through_the_actors(config_of, tmp_path):
    def is_error(table, name):
        return is_input_error(table) and name in str(table.to_pylist())

    broken = pipeline._ScoreActor(config_of(student_dir=str(tmp_path / "gone")), str(tmp_path), "cpu", on_cluster=False)
    assert all(is_error(broken(pa.table({"number": [number]})), f"{tmp_path}/gone") for number in (0, 1))
    item = asdict(DataFile(0, str(tmp_path / "gone.jsonl"), "gone.jsonl", "jsonl", None))
    values = {"config": config_of(), "folder": str(tmp_path), "tokenizer_json": "unused", "max_length": 48}
    (table,) = pipeline._read_task(pa.table({"item": [item]}), **values)
    assert is_error(table, item["uri"])
    actor = pipeline._ScoreActor(config_of(), str(tmp_path), "cpu", on_cluster=False)
    assert actor(table) is table
    with pytest.raises(KeyError):  # a bug is not an input error
        actor(pa.table({"unknown": [0]}))


def test_a_truncated_file_is_an_input_error_that_names_it(config_of, tmp_path):
    complete, torn = tmp_path / "complete.jsonl", tmp_path / "torn.jsonl.xz"
    write_rows(complete, rows_of(2000))
    torn.write_bytes(lzma.compress(complete.read_bytes())[:-60])
    config = config_of(data={"path": str(torn), "chunk_rows": 2000})
    (file,) = data_files(config.data)
    values = {"config": config, "folder": str(tmp_path), "tokenizer_json": read_tokenizer(config.student_dir)}
    *_, table = pipeline._read_task(pa.table({"item": [asdict(file)]}), max_length=48, **values)
    assert is_input_error(table)
    assert f"{torn}: " in str(table.to_pylist())
    assert "cut short" in str(table.to_pylist())
