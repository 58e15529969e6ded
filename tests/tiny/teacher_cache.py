"""Teacher caches of the tiny teacher, written in this process."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distilray.config.cache_teacher import CacheTeacherConfig
from distilray.distillation import cache_teacher
from distilray.runtime import pieces
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder
from distilray.stages import STAGES


def cache_config(folder: Path, shards_dir: str, teacher_dir: str, **changes: object) -> CacheTeacherConfig:
    folders = {"run_dir": str(folder), "shards_dir": shards_dir, "teacher_dir": teacher_dir}
    scaling = {"gpus_per_task": 0, "cpus_per_task": 1}
    return CacheTeacherConfig.model_validate(
        {**folders, "top_k": 8, "samples": 0, "batch_size": 7, "precision": "fp32", "scaling": scaling, **changes}
    )


def write_cache(folder: Path, shards_dir: str, teacher_dir: str, **changes: object) -> str:
    """Write a complete run folder of `cache_teacher`."""
    config = cache_config(folder, shards_dir, teacher_dir, **changes)
    run = RunFolder("cache_teacher", config, STAGES["cache_teacher"].job().inputs(config))
    run.begin()
    outcome = cache_in_process(config, run)
    run.finish(outcome.counts, outcome.outputs, outcome.summary)
    return str(folder)


def cache_in_process(config: CacheTeacherConfig, run: RunFolder, limit: int | None = None) -> Outcome:
    """Run `cache_teacher` without Ray.

    Args:
        limit: number of tasks to run before an interruption.
    """

    def one_by_one(
        items: list[dict[str, Any]], task: Callable[[dict[str, Any]], dict[str, Any]], **_: object
    ) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == limit:
                raise KeyboardInterrupt
            yield task(item)

    with (
        patch.object(pieces, "run_tasks", one_by_one),
        patch.object(cache_teacher, "ray_session", lambda _: nullcontext()),
    ):
        return cache_teacher.cache_teacher(config, run)
