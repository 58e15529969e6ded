"""A GLUE folder: which tasks are in it, and their rows."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyarrow import fs

from distilray.config.glue import GlueConfig, TaskName
from distilray.errors import InputError
from distilray.finetuning.examples import Examples
from distilray.finetuning.hub_files import hub_files, read_hub_split
from distilray.finetuning.tasks import TASKS, FineTuneTask
from distilray.finetuning.tsv_files import is_raw_file, read_tsv_ax, read_tsv_split
from distilray.runtime import storage

_TORN_ROWS = "torn rows"

# AX is scored with MNLI and has a folder of its own, or is a file; looked for in this order.
_AX_FOLDERS = ("ax", "diagnostic")
_AX_FILES = ("AX.tsv", "diagnostic.tsv")


@dataclass(frozen=True)
class TaskData:
    """All rows of a task.

    Attributes:
        task: the task.
        train: the rows to train on.
        dev: the dev sets by name.
        test: the test sets by name; empty unless asked for.
        dropped: rows that were left out, by reason.
        other_rows: splits with another number of rows than the official one, each as "train 2,489 (2,490)".
        remarks: what else a reader of scores must know of the files.
    """

    task: FineTuneTask
    train: Examples
    dev: Mapping[str, Examples]
    test: Mapping[str, Examples]
    dropped: Mapping[str, int]
    other_rows: Sequence[str] = ()
    remarks: Sequence[str] = ()


def find_tasks(glue_dir: str, tasks: Sequence[TaskName]) -> tuple[list[TaskName], list[TaskName]]:
    """The tasks that have a folder, and those that have none.

    Raises:
        InputError: `glue_dir` is no folder, or a task has two.
    """
    folders = _task_folders(glue_dir)
    return [task for task in tasks if task in folders], [task for task in tasks if task not in folders]


def input_files(glue_dir: str, tasks: Sequence[TaskName]) -> dict[str, str]:
    """The folders of the tasks that are there, named `glue_cola` and so on; AX is among them when MNLI is.

    Raises:
        InputError: as `find_tasks`.
    """
    folders = _task_folders(glue_dir)
    inputs = {f"glue_{task}": folders[task] for task in tasks if task in folders}
    ax = _ax_place(glue_dir, folders["mnli"]) if "glue_mnli" in inputs else None
    return inputs if ax is None else {**inputs, "glue_ax": ax}


def load_task(glue_dir: str, name: TaskName, *, with_test: bool = False, other_rows: bool = False) -> TaskData:
    """Reads a task.

    Args:
        glue_dir: path or URI of the folder that has a folder for each task.
        name: the task.
        with_test: whether the test sets are read too; no file of theirs is opened otherwise. AX alone may be absent.
        other_rows: accepts any number of train and dev rows.

    Raises:
        InputError: the task has no folder, or its files are not the official ones.
    """
    folders = _task_folders(glue_dir)
    task = TASKS[name]
    if name not in folders:
        raise InputError(f"{storage.join(glue_dir, task.title)}: no such folder; put the files of {task.title} there")
    checked = task
    if other_rows:
        checked = replace(task, rows={split: counts for split, counts in task.rows.items() if split in task.test})
    dropped: dict[str, int] = {}
    others = []
    read: dict[str, Examples] = {}
    for split in ("train", *task.dev):
        read[split], torn = _read(folders[name], checked, split)
        official = task.rows.get(split, ())
        if official and not {len(read[split]), len(read[split]) + torn} & set(official):
            others.append(f"{split} {len(read[split]):,} ({' or '.join(f'{count:,}' for count in official)})")
        if torn:
            dropped[_TORN_ROWS] = dropped.get(_TORN_ROWS, 0) + torn
    tests = [split for split in task.test if split != "ax"] if with_test else []
    test = {split: _read(folders[name], task, split)[0] for split in tests}
    place = _ax_place(glue_dir, folders[name]) if with_test and "ax" in task.test else None
    if place is not None:
        test["ax"] = _read_ax(place, task)
    remarks = [f"{split}: {part.remark}" for split, part in {**read, **test}.items() if part.remark]
    return TaskData(task, read.pop("train"), read, test, dropped, others, remarks)


def load_tasks(config: GlueConfig, *, with_test: bool) -> tuple[dict[TaskName, TaskData], list[TaskName]]:
    """Read the tasks of a recipe. Return their data, and the names of those that have no folder.

    Raises:
        InputError: none has a folder, a file of one is not what it should be, or a recipe's metric is not the task's.
    """
    for task in config.tasks:
        TASKS[task].check_metric(config.task_config(task).metric)
    present, missing = find_tasks(config.glue_dir, config.tasks)
    if not present:
        raise InputError(f"{config.glue_dir}: none of {', '.join(config.tasks)} there; a folder for each is expected")
    read = functools.partial(load_task, config.glue_dir, with_test=with_test, other_rows=config.allow_other_row_counts)
    return {task: read(task) for task in present}, missing


def _subfolders(uri: str) -> dict[str, str]:
    """URIs of the folders in a folder by their names."""
    store, path = storage.filesystem(uri)
    infos = store.get_file_info(fs.FileSelector(path, recursive=False))
    return {info.base_name: storage.join(uri, info.base_name) for info in infos if info.type == fs.FileType.Directory}


def _task_folders(glue_dir: str) -> dict[TaskName, str]:
    if not storage.is_folder(glue_dir):
        raise InputError(f"glue_dir: {glue_dir} is no folder; give one that has a folder for each task")
    below = _subfolders(glue_dir)
    folders: dict[TaskName, str] = {}
    for task in TASKS.values():
        named = sorted(name for name in below if name.lower() in task.folders)
        if len(named) > 1:
            raise InputError(f"{glue_dir}: {' and '.join(named)} are both of {task.title}; keep one of them")
        if named:
            folders[task.name] = below[named[0]]
    return folders


def _is_hub_layout(folder: str) -> bool:
    """Return True if a folder holds Parquet files instead of TSV.

    Raises:
        InputError: it holds both, or neither.
    """
    names = [uri.rpartition("/")[2] for uri in storage.list_files(folder)]
    hub = list(hub_files(folder))
    raw = [name for name in names if is_raw_file(name)]
    if hub and raw:
        raise InputError(f"{folder}: holds {raw[0]} and {hub[0]}; keep the TSV or the Parquet files")
    if not hub and not raw:
        wanted = "train.tsv, or the hub's train-00000-of-00001.parquet or train/0000.parquet"
        raise InputError(f"{folder}: no TSV and no Parquet file there; put the official files there: {wanted}, ...")
    return bool(hub)


def _read(folder: str, task: FineTuneTask, split: str) -> tuple[Examples, int]:
    """The rows of a split, and the lines that were dropped as pieces of a torn row."""
    if _is_hub_layout(folder):
        return read_hub_split(folder, task, split), 0
    return read_tsv_split(folder, task, split)


def _ax_place(glue_dir: str, mnli: str) -> str | None:
    """The folder or the file of AX, None when it is absent."""
    below = _subfolders(glue_dir)
    folders = [below[name] for wanted in _AX_FOLDERS for name in sorted(below) if name.lower() == wanted]
    files = [storage.join(folder, name) for folder in (mnli, glue_dir) for name in _AX_FILES]
    return next((uri for uri in [*folders, *files] if storage.exists(uri)), None)


def _read_ax(place: str, task: FineTuneTask) -> Examples:
    if not storage.is_folder(place):
        return read_tsv_ax(place, task)
    if _is_hub_layout(place):
        return read_hub_split(place, task, "ax")
    files = [storage.join(place, name) for name in (*_AX_FILES, "test.tsv")]
    file = next((uri for uri in files if storage.exists(uri)), None)
    if file is None:
        raise InputError(f"{files[0]}: no such file; put the diagnostic set there, or remove the folder")
    return read_tsv_ax(file, task)
