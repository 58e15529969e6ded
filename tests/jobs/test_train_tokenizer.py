from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.jobs.commands import run_job


def test_a_trained_tokenizer_loads_in_transformers_with_the_ids_of_bert(
    corpus_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job("train_tokenizer", tmp_path / "run", corpus_dir=corpus_dir, vocabulary_size=300) == 0
    assert "40 documents" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer("paris")["input_ids"][0] == tokenizer.cls_token_id == 101
