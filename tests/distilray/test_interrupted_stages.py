"""Every resumable stage that is cut off, at any change of the disk or between tasks, ends as an uninterrupted one."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distilray.config.base import JobConfig
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.corpus import pipeline as corpus
from distilray.distillation import cache_teacher as teacher_cache
from distilray.evaluation.fill_mask.evaluate_fill_mask import evaluate_fill_mask
from distilray.pretraining_data import encoding
from distilray.pretraining_data.tokenizer_training import train_tokenizer
from distilray.runtime.job import Outcome
from distilray.runtime.outputs import RunOutputs
from distilray.runtime.run_folder import RunFolder
from tests.distilray.interruptions import KilledError, killed_at_change, tasks_in_process
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.extraction import LENIENT
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows
from tests.tiny.shards import encode_config
from tests.tiny.teacher_cache import cache_config

MEASURED = {"manifest.json", "corpus_report.json", "corpus_report.html"}  # also hold times
WORK = ("pieces/", ".")  # of no interest to the next stage


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage with its recipe.

    Attributes:
        pipeline: the module that runs its tasks, if it has any.
    """

    config: Callable[[Path], JobConfig]
    run: Callable[[Any, RunFolder], Outcome]
    pipeline: ModuleType | None = None

    def tasks(self, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if self.pipeline is None else tasks_in_process(self.pipeline, **options)

    def execute(self, run_dir: Path, **options: Any) -> dict[str, Any]:
        """Runs or resumes the stage; gives what the run contains at its end."""
        folder = RunFolder("stage", self.config(run_dir), {})
        with self.tasks(**options):
            folder.begin()
            outcome = self.run(folder.config, folder)
            content = folder.finish(outcome.counts, outcome.outputs, outcome.summary)["content"]
        RunOutputs.from_manifest(str(run_dir), content).check_contents(content["outputs"])
        names = {path.relative_to(run_dir).as_posix(): path for path in run_dir.rglob("*") if path.is_file()}
        kept = {name: path for name, path in names.items() if not name.startswith(WORK)}
        files = {name: path.read_bytes() for name, path in kept.items() if name not in {*MEASURED, "config.yaml"}}
        return {"content": content, "names": sorted(kept), "files": files}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tokenizer_dir, teacher_dir, shards_dir):
    """What the stages read, by name."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "lines").mkdir()
    for number in range(3):  # the third has the documents of the first again
        lines = [json.dumps({"text": " ".join(each)}) for each in sentences_of(3, seed=number % 2)]
        (folder / f"lines/{number}.jsonl").write_text("\n".join([*lines, f"{{broken {number}", ""]))
    write_rows(folder / "masks/a.jsonl", rows_of(5, seed=1))
    write_rows(folder / "masks/b.jsonl", rows_of(3, seed=2))
    corpus_dir = write_corpus(folder / "corpus", 30, files=3)
    return {
        "lines": folder / "lines",
        "masks": folder / "masks",
        "corpus": corpus_dir,
        "tokenizer": tokenizer_dir,
        "teacher": teacher_dir,
        "shards": shards_dir,
    }


@pytest.fixture
def stage(request, inputs, monkeypatch):
    return STAGES[request.param](inputs, monkeypatch)


def build_corpus(inputs, _):
    def config(run_dir):
        source = {"kind": "jsonl", "name": "lines", "path": str(inputs["lines"])}
        values = {"sources": [source], "filters": LENIENT, "chunk_mb": 0.001, "file_mb": 1e-4}
        return BuildCorpusConfig.model_validate(
            {"run_dir": str(run_dir), **values, "fault_tolerance": {"max_bad_fraction": 1.0}}
        )

    return Stage(config, corpus.build_corpus, corpus)


def encode_corpus(inputs, _):
    def config(run_dir):
        folders = {"corpus_dir": inputs["corpus"], "tokenizer_dir": inputs["tokenizer"]}
        return encode_config(str(run_dir), **folders, rows_per_shard=60)

    return Stage(config, encoding.encode_corpus, encoding)


def cache_teacher(inputs, monkeypatch):
    monkeypatch.setattr(teacher_cache, "load_masked_lm", functools.cache(teacher_cache.load_masked_lm))

    def config(run_dir):
        return cache_config(run_dir, inputs["shards"], inputs["teacher"])

    return Stage(config, teacher_cache.cache_teacher, teacher_cache)


def evaluate(inputs, monkeypatch):
    def config(run_dir):
        values = {"student_dir": inputs["teacher"], "data": {"path": str(inputs["masks"]), "chunk_rows": 3}}
        return EvaluateFillMaskConfig.model_validate(
            {"run_dir": str(run_dir), **values, "precision": "fp32", "latency_examples": 0}
        )

    score_in_process(monkeypatch)
    return Stage(config, evaluate_fill_mask)


def tokenizer(inputs, _):
    def config(run_dir):
        values = {"corpus_dir": inputs["corpus"], "vocabulary_size": 200}
        return TrainTokenizerConfig.model_validate({"run_dir": str(run_dir), **values})

    return Stage(config, train_tokenizer)


STAGES = {
    "build_corpus": build_corpus,
    "encode_corpus": encode_corpus,
    "cache_teacher": cache_teacher,
    "evaluate_fill_mask": evaluate,
    "train_tokenizer": tokenizer,
}


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_a_run_that_is_killed_at_any_change_of_the_disk_ends_as_one_that_is_not(stage, tmp_path):
    whole = stage.execute(tmp_path / "whole")
    for number in itertools.count(1):
        run_dir = tmp_path / str(number)
        with killed_at_change(number) as changed:
            try:
                stage.execute(run_dir)
                break
            except KilledError:
                assert str(run_dir / "manifest.json") not in changed
        assert stage.execute(run_dir) == whole, changed[-1:]


@pytest.mark.parametrize("stage", ["build_corpus", "encode_corpus", "cache_teacher"], indirect=True)
def test_a_run_whose_last_tasks_came_first_does_those_that_are_left(stage, tmp_path):
    whole = stage.execute(tmp_path / "whole")
    for limit in itertools.count(1):
        run_dir = tmp_path / str(limit)
        try:
            assert stage.execute(run_dir, order=-1, limit=limit) == whole
            break
        except KilledError:
            assert stage.execute(run_dir) == whole, limit
    assert limit > 2


@pytest.mark.parametrize("stage", ["evaluate_fill_mask"], indirect=True)
def test_parts_that_are_scored_in_another_order_are_not_scored_again(stage, tmp_path, monkeypatch):
    whole = stage.execute(tmp_path / "whole")
    score_in_process(monkeypatch, order=-1, limit=1)
    with pytest.raises(KeyboardInterrupt):
        stage.execute(tmp_path / "run")
    scored: list[int] = []
    score_in_process(monkeypatch, seen=scored)
    assert stage.execute(tmp_path / "run") == whole
    assert len(scored) == 2
