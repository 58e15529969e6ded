"""Pool of actors; the scoring of a chunk is tested without Ray in test_chunk_scorer.py."""

import lzma

import pytest

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.errors import InputError, find_input_error
from distilray.evaluation.fill_mask import pipeline
from distilray.evaluation.fill_mask.chunk_scorer import answers_name
from distilray.evaluation.fill_mask.readers import data_files
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows
from tests.tiny.models import write_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two files, one of them compressed, in seven chunks; a teacher and a student."""
    work = tmp_path_factory.mktemp("fill_mask")
    for name, seed, count in (("a.jsonl", 1, 23), ("b.jsonl", 2, 9)):
        write_rows(work / "data" / name, rows_of(count, seed=seed))
    file = work / "data/b.jsonl"
    (work / "data/b.jsonl.xz").write_bytes(lzma.compress(file.read_bytes()))
    file.unlink()
    for name, architecture in (("teacher", "bert"), ("student", "distilbert")):
        (work / name).mkdir()
        write_tiny_model(work / name, architecture)
    values = {
        "run_dir": "unused",
        "precision": "fp32",
        "data": {"path": str(work / "data"), "chunk_rows": 5},
        "device": "cpu",
        **{f"{name}_dir": str(work / name) for name in ("teacher", "student")},
    }
    return EvaluateFillMaskConfig.model_validate(values)


def scored(config, folder):
    """Score the data and return the bytes of the answers by chunk."""
    files, tokenizer_json = data_files(config.data), read_tokenizer(config.student_dir)
    chunks = pipeline.score_files(files, config, str(folder), tokenizer_json=tokenizer_json, max_length=48)
    return {chunk: (folder / answers_name(chunk)).read_bytes() for chunk in chunks}


def test_two_actors_resume_a_run_with_the_result_of_one_process(config, tmp_path, local_ray):
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        alone = scored(config, tmp_path / "alone")
        score_in_process(patch, limit=2)
        with pytest.raises(KeyboardInterrupt):
            scored(config, tmp_path / "begun")
    (first, *_) = alone
    before = (tmp_path / "begun" / answers_name(first)).stat().st_mtime_ns
    assert scored(config, tmp_path / "begun") == alone
    assert (tmp_path / "begun" / answers_name(first)).stat().st_mtime_ns == before
    assert len(alone) == 7


def test_more_actors_than_there_is_room_for_are_refused(config, tmp_path, local_ray):
    greedy = config.model_copy(update={"scaling": config.scaling.model_copy(update={"actors": 3})})
    with pytest.raises(InputError, match="no room for 3 actors with 1 CPU: the local cluster has 2 CPU"):
        scored(greedy, tmp_path)
    with pytest.raises(InputError, match=r"no room for 1 actor with 1 GPU: .*device=cpu"):
        scored(config.model_copy(update={"device": "gpu"}), tmp_path)


def test_a_file_that_breaks_off_is_an_input_error_that_names_it(config, tmp_path, local_ray, recwarn):
    file = tmp_path / "torn.jsonl.xz"
    write_rows(tmp_path / "whole.jsonl", rows_of(2000))
    file.write_bytes(lzma.compress((tmp_path / "whole.jsonl").read_bytes())[:-60])
    data = config.data.model_copy(update={"path": str(file), "chunk_rows": 2000})
    with pytest.raises(Exception, match="cut short") as caught:
        scored(config.model_copy(update={"data": data}), tmp_path / "run")
    assert str(file) in str(find_input_error(caught.value))
    assert [str(warning.message) for warning in recwarn if "actors" in str(warning.message)] == []  # of Ray Data
