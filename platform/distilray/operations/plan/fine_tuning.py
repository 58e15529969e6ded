"""Time of the fine-tunings of GLUE."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distilray.config.glue import EvaluateGlueConfig, TaskConfig, TaskName
from distilray.finetuning.tasks import TASKS
from distilray.models.flops import ModelSize

# Mean tokens of a training example with [CLS] and [SEP], before it is cut. CoLA, SST-2 and RTE are counted in the
# official files; the others are estimates by eye of published histograms, good to a fifth or so.
_MEAN_TOKENS: Mapping[TaskName, float] = {
    "cola": 11.3,
    "sst2": 13.3,
    "mrpc": 53.0,
    "stsb": 31.0,
    "qqp": 31.0,
    "mnli": 40.0,
    "qnli": 51.0,
    "rte": 70.2,
    "wnli": 37.0,
    "follows": 60.0,
}
_FOLLOWS_ROWS = {"train": (800,), "dev": (200,)}  # of its recipe
_STEP_FLOOR_S = 0.008  # a micro-step of the student alone, 5.5 ms (see rates.py), and the update


@dataclass(frozen=True)
class FineTunings:
    """The fine-tunings of a task.

    Attributes:
        seconds: of one of them, on one worker.
    """

    task: TaskName
    count: int
    seconds: float


def fine_tunings(
    config: EvaluateGlueConfig, model: ModelSize, *, flops_per_s: float, is_gpu: bool
) -> list[FineTunings]:
    """Return the fine-tunings of `evaluate_glue`, by task.

    Args:
        flops_per_s: that one worker reaches.
        is_gpu: whether kernels have to be launched, which small batches wait for.
    """
    floor_s = _STEP_FLOOR_S if is_gpu else 0.0
    found = []
    for task in config.tasks:
        settings = config.of_task(task)
        found.append(FineTunings(task, len(settings.seeds), _seconds(task, settings, model, flops_per_s, floor_s)))
    return found


def wall_seconds(found: list[FineTunings], parallel: int) -> float:
    """Return the time with some number at once: the longest, or the share of all, whichever is more."""
    return max(*(one.seconds for one in found), sum(one.count * one.seconds for one in found) / parallel)


def _seconds(task: TaskName, settings: TaskConfig, model: ModelSize, flops_per_s: float, floor_s: float) -> float:
    rows = TASKS[task].rows or _FOLLOWS_ROWS
    train = min(max(rows["train"]), settings.max_train_examples or max(rows["train"]))
    evaluated = sum(max(counts) for split, counts in rows.items() if split.startswith("dev"))
    length = min(_MEAN_TOKENS[task], settings.max_length)

    def forward_s(examples: int, backward: int, floor: float) -> float:
        tokens = round(examples * length)
        flops = (1 + backward) * model.forward_flops(tokens, round(tokens * length), 0)
        return max(flops / flops_per_s, math.ceil(examples / settings.batch_size) * floor)

    scored = settings.epochs * settings.evaluations_per_epoch
    return settings.epochs * forward_s(train, 2, floor_s) + scored * forward_s(evaluated, 0, floor_s / 3)
