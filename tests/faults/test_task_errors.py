"""Full disks and diverged training end a stage with one line that names the file or the examples."""

import errno
import json
import re
import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distilray.corpus import pipeline as corpus
from distilray.distillation import cache_teacher, distill
from distilray.finetuning import fine_tune
from distilray.pretraining_data import encoding
from tests.distilray.interruptions import tasks_in_process
from tests.tiny.recipes import load_job, recipes, write_inputs, write_recipe
from tuning import search

ON_CPU: dict[str, dict[str, Any]] = {
    "build_corpus": {"filters": {"min_words": 0, "min_sentences": 0}},
    "distill": {"scaling": {"num_workers": 1, "use_gpu": False}},
    "evaluate_fill_mask": {"device": "cpu"},
    "evaluate_glue": {"scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1, "max_failures": 0}},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the inputs of all stages."""
    folder = tmp_path_factory.mktemp("stages")
    write_inputs(folder)
    return folder


class Stage:
    """Job with a tiny recipe, whose run folder is new."""

    def __init__(self, name: str, work: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.name, self.run, self._capfd = name, folder / "run", capfd
        values = {**recipes(work)[name], **ON_CPU.get(name, {}), "ray": {"num_cpus": 2}}
        self._recipe = write_recipe(folder, run_dir=str(self.run), **values)

    def execute(self, *overrides: str) -> tuple[int, list[str]]:
        """Return the exit code and the lines on stderr."""
        self._capfd.readouterr()
        code = load_job(self.name).main(["--recipe", self._recipe, *overrides])
        return code, self._capfd.readouterr().err.splitlines()

    def error(self) -> str:
        """Return the only line of the job on stderr that is not progress, after exit code 2."""
        code, lines = self.execute()
        assert code == 2, lines
        assert not any("Traceback" in line for line in lines)
        own = [line for line in lines if line.startswith(f"{self.name}: ")]
        (line,) = [line for line in own if not re.search(r"\d/[\d,]+ \S+ \(\d+%\)|: [\d,]+ rows\b", line)]
        return line

    def pieces(self) -> dict[str, int]:
        """Return the modification times of the records of completed pieces."""
        return {str(file): file.stat().st_mtime_ns for file in self.run.glob("pieces/*/*.json")}


@pytest.fixture
def stage(request: pytest.FixtureRequest, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Stage:
    return Stage(request.param, work, tmp_path, capfd)


def on_a_full_disk(task: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a task so that its files cannot grow beyond 100 bytes."""

    def limited(*arguments: Any, **values: Any) -> Any:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            return task(*arguments, **values)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.mark.parametrize(
    ("stage", "pipeline", "task", "output"),
    [
        ("build_corpus", corpus, "_extract_task", "work/chunks"),
        ("build_corpus", corpus, "_publish_task", "documents"),
        ("encode_corpus", encoding, "_encode_task", "work/counts"),
        ("encode_corpus", encoding, "_write_group_task", "shards"),
        ("cache_teacher", cache_teacher, "write_targets", "teacher"),
    ],
    indirect=["stage"],
)
def test_after_a_full_disk_in_a_task_the_stage_resumes(
    stage: Stage, pipeline: ModuleType, task: str, output: str
) -> None:
    with tasks_in_process(pipeline):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, task, on_a_full_disk(getattr(pipeline, task)))
            reason = r"cannot be written \(.+\); free space or choose another folder"
            assert re.search(rf"{stage.run}/{output}/\S+: {reason}", stage.error())
        assert not list((stage.run / output).glob("*"))
        before = stage.pieces()
        assert stage.execute()[0] == 0
    after = stage.pieces()
    assert {file: after[file] for file in before} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "file"),
    [("encode_corpus", "work/train/000000.drafts"), ("evaluate_fill_mask", "answers/000000000.parquet")],
    indirect=["stage"],
)
def test_a_file_that_a_ray_task_or_actor_cannot_write_is_one_line(stage: Stage, local_ray: None, file: str) -> None:
    (stage.run / file).mkdir(parents=True)  # a folder with its name prevents writing the file
    assert f"{stage.run}/{file}: cannot be written" in stage.error()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "module", "function"),
    [("evaluate_glue", fine_tune, "train_loop"), ("search_glue", search, "run_experiment")],
    indirect=["stage"],
)
def test_a_full_disk_of_a_training_worker_is_one_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, local_ray: None, module: ModuleType, function: str
) -> None:
    def full_disk(*arguments: object, **values: object) -> None:  # nested, so that it is pickled with its code
        raise OSError(errno.ENOSPC, "No space left on device", "/shared/file")

    monkeypatch.setattr(module, function, full_disk)
    assert "/shared/file: No space left on device" in stage.error()


@pytest.mark.parametrize("stage", ["distill"], indirect=True)
def test_a_run_without_finite_gradients_ends_with_one_line_that_names_its_examples(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def run_here(loop: Callable[[], Any], *_: object, **__: object) -> Any:
        attempts.append(1)
        return loop()

    monkeypatch.setattr(distill, "ray_session", lambda _: nullcontext())
    monkeypatch.setattr(distill, "ensure_capacity", lambda *_, **__: 1)
    monkeypatch.setattr(distill, "run_on_workers", run_here)
    changes = ("optimizer.learning_rate=1e30", "max_steps=8", "intervals.poll_preemption_every_steps=100")
    code, lines = stage.execute(*changes, "intervals.checkpoint_every_steps=1")
    assert code == 1
    *_, line, file = lines
    assert file == str(next((stage.run / "diverged").iterdir()))
    examples = json.loads(Path(file).read_text())["example_ids"]
    assert "gradient norm is nan, after 3 skipped step(s) in a row" in line
    assert f"its first examples are {examples[:4]}" in line
    assert not any("Traceback" in line for line in lines)
    assert len(attempts) == 1
    assert list(stage.run.glob("checkpoints/*/state.json"))
    assert not (stage.run / "manifest.json").exists()
    assert not (stage.run / "model").exists()
