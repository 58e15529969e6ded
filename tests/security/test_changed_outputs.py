"""Readers of run outputs reject files that differ from the manifest."""

import shutil
from pathlib import Path

import pytest

from distilray.config.base import JobConfig
from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.corpus.decontamination import read_texts
from distilray.errors import InputError
from distilray.evaluation.fill_mask.chunk_scorer import read_chunks
from distilray.evaluation.fill_mask.readers import data_files
from distilray.finetuning.files import load_task
from distilray.inference.backends import local_masked_lm
from distilray.inference.model_folder import check_model_folder
from distilray.models.sources import localize
from distilray.pretraining_data.corpus_reader import read_sentences
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime import storage
from distilray.runtime.run_folder import RunFolder
from tests.tiny.corpus import write_corpus
from tests.tiny.fill_mask import rows_of, write_rows
from tests.tiny.models import write_tiny_model
from tests.tiny.search import write_next_sentence_task

DOCUMENTS = "documents/documents-00000.parquet"


class Config(JobConfig):
    pass


def complete(folder):
    """Turn a folder into a complete run with all of its files as outputs."""
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    run = RunFolder("any_job", Config(run_dir=str(folder)), {})
    run.finish({}, run.describe_outputs(names), "a run")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with one run per kind of output."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus", 6)
    for name in ("tokenizer", "trained/model", "fine-tuned/models/rte", "exported/onnx"):
        (folder / name).mkdir(parents=True)
        write_tiny_model(folder / name, "bert")
    (folder / "exported/onnx/model.onnx").write_bytes(b"a graph")
    write_next_sentence_task(folder / "pairs/glue")
    (folder / "texts/text").mkdir(parents=True)
    (folder / "texts/text/rte.txt").write_text("It was a day.\n")
    write_rows(folder / "rows/rows.jsonl", rows_of(3))
    for name in ("tokenizer", "trained", "fine-tuned", "exported", "pairs", "texts", "rows"):
        complete(folder / name)
    return folder


def read_data(uri):
    values = {"run_dir": "unused", "student_dir": "unused", "data": {"path": uri}}
    config = EvaluateFillMaskConfig.model_validate(values)
    (file,) = data_files(config.data)
    list(read_chunks(file, config, "unused", max_length=48, folder=str(Path(uri).parents[1] / "scores")))


@pytest.mark.parametrize(
    ("file", "read", "argument"),
    [
        (f"corpus/{DOCUMENTS}", lambda uri: list(read_sentences(uri, 0, 1)), f"corpus/{DOCUMENTS}"),
        ("tokenizer/tokenizer.json", read_tokenizer, "tokenizer"),
        ("trained/model/tokenizer.json", read_tokenizer, "trained/model"),
        ("trained/model/tokenizer.json", localize, "trained"),
        ("trained/model/config.json", localize, "trained/model"),
        ("trained/model/model.safetensors", localize, "trained"),
        ("trained/model/model.safetensors", check_model_folder, "trained"),
        ("fine-tuned/models/rte/model.safetensors", localize, "fine-tuned/models/rte"),
        ("exported/onnx/model.onnx", local_masked_lm, "exported/onnx"),
        ("pairs/glue/Follows/train.tsv", lambda uri: load_task(uri, "follows"), "pairs/glue"),
        ("texts/text/rte.txt", lambda uri: list(read_texts(uri)), "texts/text/rte.txt"),
        ("rows/rows.jsonl", read_data, "rows/rows.jsonl"),
    ],
)
def test_a_changed_output_is_rejected_by_its_reader(runs, tmp_path, file, read, argument):
    shutil.copytree(runs / Path(file).parts[0], tmp_path / Path(file).parts[0])
    changed = tmp_path / file
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    with pytest.raises(InputError, match=f"^{changed}: its content differs from the manifest"):
        read(str(tmp_path / argument))


def test_a_changed_model_in_an_object_store_is_not_cached(runs, tmp_path, bucket):
    for file in sorted((runs / "trained").rglob("*")):
        if file.is_file():
            storage.write_bytes(f"{bucket}/{file.relative_to(runs)}", file.read_bytes())
    assert localize(f"{bucket}/trained", cache_dir=str(tmp_path / "whole"))
    storage.write_bytes(f"{bucket}/trained/model/config.json", (runs / "trained/model/config.json").read_bytes()[::-1])
    with pytest.raises(InputError, match=r"config\.json: its content differs from the manifest"):
        localize(f"{bucket}/trained", cache_dir=str(tmp_path / "changed"))
    assert not [entry for entry in (tmp_path / "changed").iterdir() if entry.is_dir()]
