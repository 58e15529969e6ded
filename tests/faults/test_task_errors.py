"""Input and disk errors in tasks, actors and training workers result in one line and exit code 2 in every stage."""

import errno
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distilray.distillation import distill
from distilray.finetuning import fine_tune
from jobs import (
    build_corpus,
    cache_teacher,
    encode_corpus,
    evaluate_fill_mask,
    evaluate_glue,
    search_glue,
    train_teacher,
)
from tests.tiny import search as tiny_search
from tests.tiny.corpus import write_corpus
from tests.tiny.fill_mask import rows_of, write_rows
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards
from tuning import search

pytestmark = pytest.mark.slow

PROGRESS = re.compile(r"\d/[\d,]+ \S+ \(\d+%\)")
FILTERS = {"min_words": 0, "min_sentences": 0}
ONE_WORKER = {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the inputs of all stages."""
    folder = tmp_path_factory.mktemp("stages")
    tiny_search.write_model(folder)
    tiny_search.write_next_sentence_task(folder / "glue")
    write_corpus(folder / "corpus", 40)
    write_shards(folder / "shards", str(folder / "tokenizer"))
    write_rows(folder / "rows.jsonl", rows_of(5))
    (folder / "text.txt").write_text("".join(f"House {number} is old. Two people live there.\n" for number in range(9)))
    return folder


def recipe(work: Path, run: Path, name: str) -> str:
    model, shards = str(work / "model"), str(work / "shards")
    glue = tiny_search.values(work, run_dir=str(run))
    stages: dict[str, dict[str, Any]] = {
        "build_corpus": {
            "sources": [{"kind": "text", "name": "text", "path": str(work / "text.txt")}],
            "filters": FILTERS,
        },
        "encode_corpus": {
            "corpus_dir": str(work / "corpus"),
            "tokenizer_dir": model,
            "max_seq_length": 32,
            "heldout_fraction": 0.2,
        },
        "cache_teacher": {
            "shards_dir": shards,
            "teacher_dir": model,
            "scaling": {"gpus_per_task": 0, "cpus_per_task": 1},
        },
        "train_teacher": {
            "shards_dir": shards,
            "encoder_dir": model,
            "max_steps": 2,
            "batch_size": 8,
            "micro_batch_size": 4,
            "scaling": ONE_WORKER,
            "fault_tolerance": {"max_failures": 0},
        },
        "evaluate_fill_mask": {"student_dir": model, "data": {"path": str(work / "rows.jsonl")}, "device": "cpu"},
        "evaluate_glue": {
            **{name: glue[name] for name in ("model_dir", "glue_dir", "tasks", "fine_tuning")},
            "scaling": {**ONE_WORKER, "max_failures": 0},
        },
        "search_glue": glue,
    }
    return write_recipe(run.parent, **{**stages[name], "run_dir": str(run), "ray": {"num_cpus": 2}})


def full_disk() -> Any:
    """Return a replacement for a task; it is a nested function so that it is pickled with its code."""

    def task(*arguments: object, **values: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/shared/file")

    return task


def error_line(capfd: pytest.CaptureFixture[str], job: ModuleType, work: Path, run: Path) -> str:
    """Run a stage that exits with code 2, and return its only line on stderr except for progress."""
    name = job.__name__.removeprefix("jobs.")
    assert job.main(["--recipe", recipe(work, run, name)]) == 2
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith(f"{name}: ") and not PROGRESS.search(line)]
    return line


@pytest.mark.parametrize(
    ("job", "file"),
    [
        (build_corpus, "work/chunks/000000.parquet"),
        (build_corpus, "documents/documents-00000-000.parquet"),
        (encode_corpus, "work/train/000000.drafts"),
        (cache_teacher, "pieces/files/000000.json"),
        (evaluate_fill_mask, "answers/000000000.parquet"),
    ],
)
def test_a_file_that_a_task_cannot_write_is_one_line(
    work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], local_ray: None, job: ModuleType, file: str
) -> None:
    (tmp_path / "run" / file).mkdir(parents=True)  # a folder in its place prevents writing the file
    assert f"{tmp_path}/run/{file}: cannot be written" in error_line(capfd, job, work, tmp_path / "run")


@pytest.mark.parametrize(
    ("job", "module", "name"),
    [
        (train_teacher, distill, "train_loop"),
        (evaluate_glue, fine_tune, "train_loop"),
        (search_glue, search, "run_experiment"),
    ],
)
def test_a_full_disk_of_a_training_worker_is_one_line(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    local_ray: None,
    job: ModuleType,
    module: Any,
    name: str,
) -> None:
    monkeypatch.setattr(module, name, full_disk())
    assert "/shared/file: No space left on device" in error_line(capfd, job, work, tmp_path / "run")
