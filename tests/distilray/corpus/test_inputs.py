from pathlib import Path

import pytest

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.inputs import dump_files
from distilray.errors import InputError


def config(*paths: str) -> BuildCorpusConfig:
    return BuildCorpusConfig.model_validate({"run_dir": "r", "sources": [{"path": path} for path in paths]})


def test_the_sample_is_a_file_of_this_machine() -> None:
    assert Path(dump_files(config("sample:wikipedia"))[0].uri).is_file()


def test_another_sample_is_refused() -> None:
    with pytest.raises(InputError, match="no such sample"):
        dump_files(config("sample:books"))


def test_a_dump_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="given twice"):
        dump_files(config("a.xml", "a.xml"))


def test_progress_runs_through_all_dumps(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 20)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert [dump.bytes_before for dump in dump_files(config(f"{tmp_path}/a", f"{tmp_path}/b"))] == [0, 10]
