"""GLUE folders: the tasks that a folder contains, and their rows."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyarrow import fs

from distilray.config.glue import GlueConfig, TaskName
from distilray.errors import InputError
from distilray.finetuning.examples import Examples
from distilray.finetuning.hub_files import hub_files, read_hub_split
from distilray.finetuning.tasks import TASKS, FineTuneTask
from distilray.finetuning.tsv_files import is_tsv_file, read_tsv_ax, read_tsv_split
from distilray.runtime import storage

_TORN_ROWS = "torn rows"

# AX is scored with MNLI. It has its own folder or is a single file; locations are searched in this order.
_AX_FOLDERS = ("ax", "diagnostic")
_AX_FILES = ("AX.tsv", "diagnostic.tsv")


@dataclass(frozen=True)
class TaskData:
    """All rows of a task.

    Attributes:
        train: training rows.
        dev: dev sets by name.
        test: test sets by name; empty unless requested.
        dropped: number of dropped rows by reason.
        unofficial_splits: splits without the official number of rows, each as "train 2,489 (2,490)".
        remarks: other properties of the files that should be reported with scores.
    """

    task: FineTuneTask
    train: Examples
    dev: Mapping[str, Examples]
    test: Mapping[str, Examples]
    dropped: Mapping[str, int]
    unofficial_splits: Sequence[str] = ()
    remarks: Sequence[str] = ()


def find_tasks(glue_dir: str, tasks: Sequence[TaskName]) -> tuple[list[TaskName], list[TaskName]]:
    """Return the tasks that have a folder, and those that do not.

    Raises:
        InputError: `glue_dir` is not a folder, or a task has two folders.
    """
    folders = _task_folders(glue_dir)
    return [task for task in tasks if task in folders], [task for task in tasks if task not in folders]


def input_files(glue_dir: str, tasks: Sequence[TaskName]) -> dict[str, str]:
    """Return the folders of the tasks by input name (`glue_cola`, ...). MNLI adds AX, if it is present.

    Raises:
        InputError: see `find_tasks`.
    """
    folders = _task_folders(glue_dir)
    inputs = {f"glue_{task}": folders[task] for task in tasks if task in folders}
    ax = _find_ax(glue_dir, folders["mnli"]) if "glue_mnli" in inputs else None
    return inputs if ax is None else {**inputs, "glue_ax": ax}


def load_task(glue_dir: str, name: TaskName, *, with_test: bool = False, any_row_counts: bool = False) -> TaskData:
    """Read a task.

    Args:
        glue_dir: path or URI of a folder with one folder per task.
        with_test: True to read the test sets too; otherwise their files are not opened. Only AX may be missing.
        any_row_counts: True to accept any number of train and dev rows.

    Raises:
        InputError: the task has no folder, or its files are not the official ones.
    """
    folders = _task_folders(glue_dir)
    task = TASKS[name]
    if name not in folders:
        raise InputError(f"{storage.join(glue_dir, task.title)}: no such folder; put the files of {task.title} there")
    checked = task
    if any_row_counts:
        checked = replace(
            task, row_counts={split: counts for split, counts in task.row_counts.items() if split in task.test}
        )
    dropped: dict[str, int] = {}
    unofficial = []
    splits: dict[str, Examples] = {}
    for split in ("train", *task.dev):
        splits[split], torn = _read(folders[name], checked, split)
        official = task.row_counts.get(split, ())
        if official and not {len(splits[split]), len(splits[split]) + torn} & set(official):
            unofficial.append(f"{split} {len(splits[split]):,} ({' or '.join(f'{count:,}' for count in official)})")
        if torn:
            dropped[_TORN_ROWS] = dropped.get(_TORN_ROWS, 0) + torn
    tests = [split for split in task.test if split != "ax"] if with_test else []
    test = {split: _read(folders[name], task, split)[0] for split in tests}
    ax = _find_ax(glue_dir, folders[name]) if with_test and "ax" in task.test else None
    if ax is not None:
        test["ax"] = _read_ax(ax, task)
    remarks = [f"{split}: {rows.remark}" for split, rows in {**splits, **test}.items() if rows.remark]
    return TaskData(task, splits.pop("train"), splits, test, dropped, unofficial, remarks)


def load_tasks(config: GlueConfig, *, with_test: bool) -> tuple[dict[TaskName, TaskData], list[TaskName]]:
    """Read the tasks of a recipe, and return their data and the tasks that have no folder.

    Raises:
        InputError: no task has a folder, a file is invalid, or a task does not have the metric that the recipe sets.
    """
    for task in config.tasks:
        TASKS[task].check_metric(config.task_config(task).metric)
    present, missing = find_tasks(config.glue_dir, config.tasks)
    if not present:
        raise InputError(f"{config.glue_dir}: contains none of {', '.join(config.tasks)}; add a folder for each task")
    read = functools.partial(
        load_task, config.glue_dir, with_test=with_test, any_row_counts=config.allow_other_row_counts
    )
    return {task: read(task) for task in present}, missing


def _subfolders(uri: str) -> dict[str, str]:
    """Return the URIs of the direct subfolders by name."""
    store, path = storage.filesystem(uri)
    infos = store.get_file_info(fs.FileSelector(path, recursive=False))
    return {info.base_name: storage.join(uri, info.base_name) for info in infos if info.type == fs.FileType.Directory}


def _task_folders(glue_dir: str) -> dict[TaskName, str]:
    if not storage.is_folder(glue_dir):
        raise InputError(f"glue_dir: {glue_dir} is not a folder; choose one that has a folder for each task")
    subfolders = _subfolders(glue_dir)
    folders: dict[TaskName, str] = {}
    for task in TASKS.values():
        named = sorted(name for name in subfolders if name.lower() in task.folders)
        if len(named) > 1:
            raise InputError(f"{glue_dir}: {' and '.join(named)} are both folders of {task.title}; keep one of them")
        if named:
            folders[task.name] = subfolders[named[0]]
    return folders


def _is_hub_layout(folder: str) -> bool:
    """Return True if a folder contains Parquet files instead of TSV files.

    Raises:
        InputError: the folder contains both, or neither.
    """
    names = [uri.rpartition("/")[2] for uri in storage.list_files(folder)]
    hub = list(hub_files(folder))
    tsv = [name for name in names if is_tsv_file(name)]
    if hub and tsv:
        raise InputError(f"{folder}: contains {tsv[0]} and {hub[0]}; keep the TSV or the Parquet files")
    if not hub and not tsv:
        wanted = "train.tsv, or the hub's train-00000-of-00001.parquet or train/0000.parquet"
        raise InputError(f"{folder}: no TSV or Parquet files; add the official ones: {wanted}, ...")
    return bool(hub)


def _read(folder: str, task: FineTuneTask, split: str) -> tuple[Examples, int]:
    """Return the rows of a split, and the number of dropped lines that were fragments of a row."""
    if _is_hub_layout(folder):
        return read_hub_split(folder, task, split), 0
    return read_tsv_split(folder, task, split)


def _find_ax(glue_dir: str, mnli: str) -> str | None:
    """Return the folder or file of AX, or None if it is absent."""
    subfolders = _subfolders(glue_dir)
    folders = [subfolders[name] for wanted in _AX_FOLDERS for name in sorted(subfolders) if name.lower() == wanted]
    files = [storage.join(folder, name) for folder in (mnli, glue_dir) for name in _AX_FILES]
    return next((uri for uri in [*folders, *files] if storage.exists(uri)), None)


def _read_ax(uri: str, task: FineTuneTask) -> Examples:
    if not storage.is_folder(uri):
        return read_tsv_ax(uri, task)
    if _is_hub_layout(uri):
        return read_hub_split(uri, task, "ax")
    files = [storage.join(uri, name) for name in (*_AX_FILES, "test.tsv")]
    file = next((name for name in files if storage.exists(name)), None)
    if file is None:
        raise InputError(f"{files[0]}: no such file; put the diagnostic set there, or remove the folder")
    return read_tsv_ax(file, task)
