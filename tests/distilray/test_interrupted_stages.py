"""Every resumable stage that is interrupted, at any change of the disk or between tasks, ends like a complete one."""

import functools
import itertools
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from distilray.config.base import JobConfig
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.corpus import pipeline as corpus
from distilray.distillation import cache_teacher
from distilray.evaluation.fill_mask import chunk_scorer, evaluate_fill_mask
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data import encoding
from distilray.runtime.outputs import RunOutputs
from distilray.runtime.run_folder import RunFolder
from distilray.stages import STAGES
from tests.distilray.interruptions import KilledError, killed_at_change, tasks_in_process
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.extraction import LENIENT
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows
from tests.tiny.shards import encode_config
from tests.tiny.teacher_cache import cache_config

VARIABLE = {"manifest.json", "corpus_report.json", "config.yaml"}  # also contain times or the folder
WORK = ("pieces/", ".")  # not read by the next stage
WITH_TASKS = {"build_corpus": corpus, "encode_corpus": encoding, "cache_teacher": cache_teacher}


@pytest.fixture(scope="module")
def configs(tmp_path_factory, tokenizer_dir, teacher_dir, shards_dir) -> dict[str, JobConfig]:
    """Configuration of each stage, without its run folder."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "lines").mkdir()
    first = sentences_of(3)
    for number, documents in enumerate([first, [*sentences_of(2, seed=1), first[0]]]):
        lines = [json.dumps({"text": " ".join(document)}) for document in documents]
        (folder / f"lines/{number}.jsonl").write_text("\n".join([*lines, f"{{broken {number}", ""]))
    write_rows(folder / "masks/a.jsonl", rows_of(4, seed=1))
    write_rows(folder / "masks/b.jsonl", rows_of(2, seed=2))
    corpus_dir = write_corpus(folder / "corpus", 12, files=3)
    values: dict[type[JobConfig], dict[str, Any]] = {
        BuildCorpusConfig: {
            "sources": [{"kind": "jsonl", "name": "lines", "path": str(folder / "lines")}],
            "filters": LENIENT,
            "chunk_mb": 0.001,
            "file_mb": 1e-4,
            "fault_tolerance": {"max_bad_fraction": 1.0},
        },
        EvaluateFillMaskConfig: {
            "student_dir": teacher_dir,
            "data": {"path": str(folder / "masks"), "chunk_rows": 3},
            "precision": "fp32",
            "latency_examples": 0,
        },
        TrainTokenizerConfig: {"corpus_dir": corpus_dir, "vocabulary_size": 200},
    }
    build, evaluate, train = (kind.model_validate({"run_dir": "unused", **values[kind]}) for kind in values)
    return {
        "build_corpus": build,
        "encode_corpus": encode_config(corpus_dir=corpus_dir, tokenizer_dir=tokenizer_dir, rows_per_shard=60),
        "cache_teacher": cache_config(Path("unused"), shards_dir, teacher_dir),
        "evaluate_fill_mask": evaluate,
        "train_tokenizer": train,
    }


def run_stage(name: str, config: JobConfig, run_dir: Path, **options: Any) -> dict[str, Any]:
    """Run or resume a stage, and return the content of its folder.

    Args:
        options: see `tasks_in_process`.
    """
    folder = RunFolder("stage", config.model_copy(update={"run_dir": str(run_dir)}), {})
    with tasks_in_process(WITH_TASKS[name], **options) if name in WITH_TASKS else nullcontext():
        folder.begin()
        outcome = STAGES[name].job().run(folder.config, folder)
        content = folder.finish(outcome.counts, outcome.outputs, outcome.summary)["content"]
    RunOutputs.from_manifest(str(run_dir), content).check_contents(content["outputs"])
    files = {path.relative_to(run_dir).as_posix(): path for path in sorted(run_dir.rglob("*")) if path.is_file()}
    results = {name: path for name, path in files.items() if not name.startswith(WORK)}
    data = {name: path.read_bytes() for name, path in results.items() if name not in VARIABLE}
    return {"content": content, "names": list(results), "data": data}


@pytest.fixture
def execute(request, configs, monkeypatch):
    """Return a function that runs the stage in a folder."""
    load_once = functools.cache(load_masked_lm)
    for module in (cache_teacher, chunk_scorer, evaluate_fill_mask):
        monkeypatch.setattr(module, "load_masked_lm", load_once)
    score_in_process(monkeypatch)
    return functools.partial(run_stage, request.param, configs[request.param])


every_stage = pytest.mark.parametrize("execute", [*WITH_TASKS, "evaluate_fill_mask", "train_tokenizer"], indirect=True)


@every_stage
def test_a_run_that_is_killed_at_any_change_of_the_disk_ends_like_a_complete_one(execute, tmp_path):
    whole = execute(tmp_path / "whole")
    for number in itertools.count(1):
        run_dir = tmp_path / str(number)
        with killed_at_change(number) as changed:
            try:
                execute(run_dir)
                break
            except KilledError:
                assert str(run_dir / "manifest.json") not in changed
        assert execute(run_dir) == whole, changed[-1:]


@pytest.mark.parametrize("execute", WITH_TASKS, indirect=True)
def test_a_run_whose_last_tasks_came_first_executes_the_others(execute, tmp_path):
    whole = execute(tmp_path / "whole")
    for limit in itertools.count(1):
        run_dir = tmp_path / str(limit)
        try:
            assert execute(run_dir, order=-1, limit=limit) == whole
            break
        except KilledError:
            assert execute(run_dir) == whole, limit
    assert limit > 2


@pytest.mark.parametrize("execute", ["evaluate_fill_mask"], indirect=True)
def test_chunks_that_are_scored_in_another_order_are_not_scored_again(execute, tmp_path, monkeypatch):
    whole = execute(tmp_path / "whole")
    score_in_process(monkeypatch, order=-1, limit=1)
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path / "run")
    scored: list[int] = []
    score_in_process(monkeypatch, seen=scored)
    assert execute(tmp_path / "run") == whole
    assert len(scored) == 2
