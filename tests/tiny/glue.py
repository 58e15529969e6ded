"""Small GLUE folders in either layout, with the headers of the official files and generated rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distilray.config.glue import GLUE_TASKS, TaskName

FOLDERS: Mapping[str, str] = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
LABELS: Mapping[str, Sequence[str]] = {
    "stsb": ("0.000", "2.500", "5.000"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
}
OFFICIAL_ROWS: Mapping[str, Mapping[str, int]] = {
    "cola": {"train": 8551, "dev": 1043, "test": 1063},
    "sst2": {"train": 67349, "dev": 872, "test": 1821},
    "mrpc": {"train": 3668, "dev": 408, "test": 1725},
    "stsb": {"train": 5749, "dev": 1500, "test": 1379},
    "qqp": {"train": 363846, "dev": 40430, "test": 390965},
    "mnli": {
        "train": 392702,
        "dev_matched": 9815,
        "dev_mismatched": 9832,
        "test_matched": 9796,
        "test_mismatched": 9847,
        "ax": 1104,
    },
    "qnli": {"train": 104743, "dev": 5463, "test": 5463},
    "rte": {"train": 2490, "dev": 277, "test": 3000},
    "wnli": {"train": 635, "dev": 71, "test": 146},
}

# Columns of train, dev and test files. {i} is the row, {label} its label, and the texts are "first 0", "second 0", ...
_STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"]
_MNLI = [
    *("index", "promptID", "pairID", "genre"),
    *("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"),
    *("sentence1", "sentence2"),
]
_MRPC = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
_PAIR = ["index", "sentence1", "sentence2"]
_QNLI = ["index", "question", "sentence"]
_COLUMNS: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "cola": (4 * [""], 4 * [""], ["index", "sentence"]),
    "sst2": (["sentence", "label"], ["sentence", "label"], ["index", "sentence"]),
    "mrpc": (["Quality", *_MRPC], ["Quality", *_MRPC], ["index", *_MRPC]),
    "stsb": ([*_STSB, "score"], [*_STSB, "score"], _STSB),
    "qqp": (
        2 * (["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],) + (["id", "question1", "question2"],)
    ),
    "mnli": (
        [*_MNLI, "label1", "gold_label"],
        [*_MNLI, *(f"label{number}" for number in range(1, 6)), "gold_label"],
        _MNLI,
    ),
    "qnli": ([*_QNLI, "label"], [*_QNLI, "label"], _QNLI),
    "rte": ([*_PAIR, "label"], [*_PAIR, "label"], _PAIR),
    "wnli": ([*_PAIR, "label"], [*_PAIR, "label"], _PAIR),
}
_VALUES = {
    **dict.fromkeys(["index", "id"], "{i}"),
    **dict.fromkeys(["sentence1", "#1 String", "question1", "question"], "first {i}"),
    **dict.fromkeys(["sentence2", "#2 String", "question2"], "second {i}"),
    **dict.fromkeys(["label", "gold_label", "score", "Quality", "is_duplicate"], "{label}"),
    "#1 ID": "1{i}",
    "#2 ID": "2{i}",
}
_HUB_TEXTS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
}


def labels_of(task: str) -> Sequence[str]:
    """Return the labels of a task; row i has the label i modulo their number."""
    return LABELS.get(task, ("0", "1"))


def small_rows(task: str) -> dict[str, int]:
    """Return a small, different number of rows for each split."""
    return {split: 6 + place for place, split in enumerate(OFFICIAL_ROWS[task])}


def raw_lines(task: str, split: str, rows: int) -> list[str]:
    """Return the lines of one official file, including its header if it has one."""
    kind = 0 if split == "train" else 1 if split.startswith("dev") else 2
    columns = ["index", "sentence1", "sentence2"] if split == "ax" else _COLUMNS[task][kind]
    headless = task == "cola" and kind < 2
    values = ["gj04", "{label}", "", "first {i}"] if headless else [_value(task, name) for name in columns]
    template, labels = "\t".join(values), labels_of(task)
    lines = [template.format(i=row, label=labels[row % len(labels)]) for row in range(rows)]
    return lines if headless else ["\t".join(columns), *lines]


def _value(task: str, name: str) -> str:
    if name == "sentence":
        return "second {i}" if task == "qnli" else "first {i}"
    return _VALUES.get(name, "x")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode())


def write_raw(folder: Path, task: TaskName, rows: Mapping[str, int]) -> None:
    """Write the official files of a task into its subfolder."""
    for split, count in rows.items():
        place = folder / "AX" / "AX.tsv" if split == "ax" else folder / FOLDERS[task] / f"{split}.tsv"
        write_lines(place, raw_lines(task, split, count))


def write_msr(folder: Path, rows: Mapping[str, int]) -> None:
    """Write MRPC as in Microsoft's own distribution, with a byte order mark. Every ninth train row is a dev row."""
    lines = raw_lines("mrpc", "train", rows["train"] + rows["dev"])
    step = len(lines) // rows["dev"]
    dev = lines[1::step][: rows["dev"]]
    write_lines(folder / "MRPC" / "dev_ids.tsv", ["\t".join(line.split("\t")[1:3]) for line in dev])
    write_lines(folder / "MRPC" / "msr_paraphrase_train.txt", ["\ufeff" + lines[0], *lines[1:]])
    test = raw_lines("mrpc", "dev", rows["test"])
    write_lines(folder / "MRPC" / "msr_paraphrase_test.txt", ["\ufeff" + test[0], *test[1:]])


def hub_table(task: str, split: str, rows: int, start: int = 0) -> pa.Table:
    """Return the rows of one file of the hub, numbered from `start`."""
    is_test, numbers = split.startswith("test") or split == "ax", range(start, start + rows)
    words = labels_of(task)
    cycle = [float(word) for word in words] if task == "stsb" else list(range(len(words)))
    labels = [-1 if is_test else cycle[row % len(cycle)] for row in numbers]
    texts = dict(zip(_HUB_TEXTS.get(task, ["sentence1", "sentence2"]), ("first", "second"), strict=False))
    return pa.table(
        {
            **{column: [f"{name} {row}" for row in numbers] for column, name in texts.items()},
            "label": pa.array(labels, pa.float32() if task == "stsb" else pa.int64()),
            "idx": pa.array(numbers, pa.int32()),
        }
    )


def write_hub(folder: Path, task: TaskName, rows: Mapping[str, int], *, shards: int = 1) -> None:
    """Write the Parquet files of a task, with the train split in several shards."""
    for split, count in rows.items():
        name = "test" if split == "ax" else split.replace("dev", "validation")
        place = folder / ("ax" if split == "ax" else task)
        place.mkdir(parents=True, exist_ok=True)
        parts = shards if split == "train" else 1
        ends = [count * part // parts for part in range(parts + 1)]
        for part in range(parts):
            table = hub_table(task, split, ends[part + 1] - ends[part], ends[part])
            pq.write_table(table, place / f"{name}-{part:05}-of-{parts:05}.parquet")


def write_glue(
    folder: Path, tasks: Sequence[TaskName] = GLUE_TASKS, *, layout: str = "raw", official: bool = False
) -> str:
    """Write a GLUE folder in the layout `raw` or `hub`, with a few rows or the official numbers of rows."""
    for task in tasks:
        rows = OFFICIAL_ROWS[task] if official else small_rows(task)
        (write_raw if layout == "raw" else write_hub)(folder, task, rows)
    return str(folder)
