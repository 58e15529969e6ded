import lzma
from pathlib import Path

import pytest

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask import pipeline
from distilray.evaluation.fill_mask.readers import data_files
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.fill_mask import rows_of, write_rows
from tests.tiny.models import write_tiny_model


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """Folder with two data files, one of them compressed, a BERT as the teacher and a DistilBERT as the student."""
    folder = tmp_path_factory.mktemp("fill_mask")
    for name, seed, count in (("a.jsonl", 1, 23), ("b.jsonl", 2, 9)):
        write_rows(folder / "data" / name, rows_of(count, seed=seed))
    file = folder / "data/b.jsonl"
    (folder / "data/b.jsonl.xz").write_bytes(lzma.compress(file.read_bytes()))
    file.unlink()
    for name, architecture in (("teacher", "bert"), ("student", "distilbert")):
        (folder / name).mkdir()
        write_tiny_model(folder / name, architecture)
    return folder


@pytest.fixture
def config_of(work):
    """Configurations of evaluations of the two models on the data files, in seven chunks."""

    def config_of(**changes):
        data = {"path": str(work / "data"), "chunk_rows": 5, **changes.pop("data", {})}
        models = {f"{name}_dir": str(work / name) for name in ("teacher", "student")}
        values = {"run_dir": "unused", "precision": "fp32", "device": "cpu", "data": data, **models, **changes}
        return EvaluateFillMaskConfig.model_validate(values)

    return config_of


@pytest.fixture
def scored(config_of):
    """Score the data into a folder; return the bytes of the answers by chunk."""

    def scored(folder, **changes):
        config = config_of(**changes)
        tokenizer_json, files = read_tokenizer(config.student_dir), data_files(config.data)
        chunks = pipeline.score_files(files, config, str(folder), tokenizer_json=tokenizer_json, max_length=48)
        return {chunk: Path(folder, f"answers/{chunk:09d}.parquet").read_bytes() for chunk in chunks}

    return scored
