"""Inputs of the fill-mask evaluation: models, data and the causal model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.errors import InputError
from distilray.evaluation.fill_mask.causal import check_causal_model
from distilray.models.model_source import is_place, model_inputs, pinned
from distilray.runtime import storage
from distilray.runtime.file_search import find_files

_MLFLOW_MODEL = "data/model"  # where Azure's MLflow folders keep the model; others have `model`, as runs do


def prepare_fill_mask(config: EvaluateFillMaskConfig) -> EvaluateFillMaskConfig:
    """The config with absolute folders and commits of the hub, which all machines read alike.

    Raises:
        InputError: models or data that are not there, all in one line.
    """
    changes: dict[str, Any] = {}
    faults: list[InputError] = []
    for name in ("teacher_dir", "student_dir"):
        source = getattr(config, name)
        if source is not None:
            with _collected(faults):
                changes[name] = _model_source(source)
    if config.data is not None:
        with _collected(faults):
            find_files(config.data.path)
        changes["data"] = config.data.model_copy(update={"path": _absolute(config.data.path)})
    if config.causal is not None:
        with _collected(faults):
            check_causal_model(config.causal.model_dir)
            folder = str(storage.local_path(config.causal.model_dir))
            changes["causal"] = config.causal.model_copy(update={"model_dir": folder})
    if faults:
        raise faults[0] if len(faults) == 1 else InputError("; ".join(map(str, faults)))
    return config.model_copy(update=changes)


@contextmanager
def _collected(faults: list[InputError]) -> Iterator[None]:
    try:
        yield
    except InputError as fault:
        faults.append(fault)


def _model_source(source: str) -> str:
    if not is_place(source):
        return pinned(source)
    if storage.is_local(source) and not storage.is_folder(source):
        raise InputError(f"{source}: no such folder; name a run, a model folder, the URI of one, or hub:OWNER/NAME")
    inside = storage.join(source, _MLFLOW_MODEL)
    return inside if "://" not in source and storage.is_folder(inside) else source


def fill_mask_inputs(config: EvaluateFillMaskConfig) -> dict[str, str]:
    """Return the inputs of `evaluate_fill_mask` by name."""
    inputs = {"shards": config.shards_dir} if config.shards_dir else {}
    if config.data is not None:
        inputs["data"] = config.data.path
    if config.causal is not None:
        inputs["causal"] = config.causal.model_dir
    for name, source in (("teacher", config.teacher_dir), ("student", config.student_dir)):
        inputs |= model_inputs(name, source) if source is not None else {}
    return inputs


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)
