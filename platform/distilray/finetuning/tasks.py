"""Table of the fine-tuning tasks: the nine of GLUE (Wang et al. 2019), and the next-sentence task `follows`.

A row contains everything that readers, training, metrics and submissions need to know about a task.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from distilray.config.glue import SCORE, TaskName
from distilray.errors import InputError

STSB_RANGE = (0.0, 5.0)
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCE_PAIR = ("sentence1", "sentence2")


@dataclass(frozen=True)
class FineTuneTask:
    """A task, its metrics, and the format of its files.

    Attributes:
        name: name in recipes and on the hub.
        title: name in papers and of official folders.
        metrics: metric names, each with the dev set that it is computed on. The primary metric `score` is their mean.
        labels: class names in the order of class ids, which is that of the hub; empty for a regression.
        score_range: lowest and highest label of a regression; None for a classification.
        hub_labels: class names on the hub in the same order; empty if they are the same as `labels`.
        columns: header names of the one or two text columns in TSV files.
        hub_columns: names of the text columns in the Parquet files of the hub.
        label: header name of the label in TSV files.
        index: header name of the row number in the TSV test file.
        header: columns of train and dev files that have no header line.
        dev: dev sets.
        submission: test sets, each with the name of its file in a submission.
        row_counts: official row counts by split, one per known release; empty if any number is accepted.
        row_count_hints: explanations of known wrong row counts, by split and count.
        has_torn_rows: True if the official train and dev files contain lines that are fragments of a row.
        folders: possible names of the folder, in lower case.
        can_start_from_mnli: True if a model fine-tuned on MNLI is a better start than a pretrained one, as in RoBERTa.
        remark: note shown with every score of the task.
    """

    name: TaskName
    title: str
    metrics: Mapping[str, str]
    labels: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    hub_labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = _SENTENCE_PAIR
    hub_columns: tuple[str, ...] = _SENTENCE_PAIR
    label: str = "label"
    index: str = "index"
    header: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("dev",)
    submission: Mapping[str, str] = field(default_factory=dict)
    row_counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    row_count_hints: Mapping[tuple[str, int], str] = field(default_factory=dict)
    has_torn_rows: bool = False
    folders: tuple[str, ...] = ()
    can_start_from_mnli: bool = False
    remark: str = ""

    @property
    def is_regression(self) -> bool:
        """True if labels are scores instead of classes."""
        return self.score_range is not None

    @property
    def num_outputs(self) -> int:
        """Number of model outputs per row."""
        return len(self.labels) or 1

    @property
    def label_range(self) -> tuple[float, float]:
        """Lowest and highest class id or score."""
        return self.score_range or (0, len(self.labels) - 1)

    @property
    def test(self) -> tuple[str, ...]:
        """Test sets."""
        return tuple(self.submission)

    def check_metric(self, metric: str) -> None:
        """Check that the task has a metric.

        Raises:
            InputError: it does not.
        """
        known = (SCORE, *self.metrics)
        if metric not in known:
            close = difflib.get_close_matches(metric, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known)}"
            raise InputError(f"metric: '{metric}' is not a metric of {self.name}; {hint}")


def _row_counts(train: int, dev: int, test: int) -> dict[str, tuple[int, ...]]:
    return {"train": (train,), "dev": (dev,), "test": (test,)}


def _on_dev(*metrics: str) -> dict[str, str]:
    return dict.fromkeys(metrics, "dev")


_LOST_ROW = "one row is missing: it was read or saved as a header, which CoLA does not have"
_QNLI_1 = "that is version 1 of QNLI; get version 2"

_ALL = (
    FineTuneTask(
        name="cola",
        title="CoLA",
        metrics=_on_dev("matthews"),
        labels=_BINARY,
        hub_labels=("unacceptable", "acceptable"),
        columns=("sentence",),
        hub_columns=("sentence",),
        header=("source", "label", "mark", "sentence"),
        submission={"test": "CoLA"},
        row_counts=_row_counts(8_551, 1_043, 1_063),
        row_count_hints={("train", 8_550): _LOST_ROW, ("dev", 1_042): _LOST_ROW},
        folders=("cola",),
    ),
    FineTuneTask(
        name="sst2",
        title="SST-2",
        metrics=_on_dev("accuracy"),
        labels=_BINARY,
        hub_labels=("negative", "positive"),
        columns=("sentence",),
        hub_columns=("sentence",),
        submission={"test": "SST-2"},
        row_counts=_row_counts(67_349, 872, 1_821),
        folders=("sst-2", "sst2"),
    ),
    FineTuneTask(
        name="mrpc",
        title="MRPC",
        metrics=_on_dev("f1", "accuracy"),
        labels=_BINARY,
        hub_labels=("not_equivalent", "equivalent"),
        columns=("#1 String", "#2 String"),
        label="Quality",
        submission={"test": "MRPC"},
        row_counts=_row_counts(3_668, 408, 1_725),
        row_count_hints={("train", 4_076): "they include the dev rows; remove those of dev_ids.tsv"},
        folders=("mrpc",),
        can_start_from_mnli=True,
    ),
    FineTuneTask(
        name="stsb",
        title="STS-B",
        metrics=_on_dev("pearson", "spearman"),
        score_range=STSB_RANGE,
        label="score",
        submission={"test": "STS-B"},
        row_counts=_row_counts(5_749, 1_500, 1_379),
        folders=("sts-b", "stsb"),
        can_start_from_mnli=True,
    ),
    FineTuneTask(
        name="qqp",
        title="QQP",
        metrics=_on_dev("f1", "accuracy"),
        labels=_BINARY,
        hub_labels=("not_duplicate", "duplicate"),
        columns=("question1", "question2"),
        hub_columns=("question1", "question2"),
        label="is_duplicate",
        index="id",
        submission={"test": "QQP"},
        row_counts={"train": (363_846, 363_870), "dev": (40_430, 40_431), "test": (390_965,)},
        has_torn_rows=True,
        folders=("qqp",),
    ),
    FineTuneTask(
        name="mnli",
        title="MNLI",
        metrics={"accuracy_m": "dev_matched", "accuracy_mm": "dev_mismatched"},
        labels=("entailment", "neutral", "contradiction"),
        hub_columns=("premise", "hypothesis"),
        label="gold_label",
        dev=("dev_matched", "dev_mismatched"),
        submission={"test_matched": "MNLI-m", "test_mismatched": "MNLI-mm", "ax": "AX"},
        row_counts={
            "train": (392_702,),
            "dev_matched": (9_815,),
            "dev_mismatched": (9_832,),
            "test_matched": (9_796,),
            "test_mismatched": (9_847,),
            "ax": (1_104,),
        },
        folders=("mnli",),
    ),
    FineTuneTask(
        name="qnli",
        title="QNLI",
        metrics=_on_dev("accuracy"),
        labels=_ENTAILMENT,
        columns=("question", "sentence"),
        hub_columns=("question", "sentence"),
        submission={"test": "QNLI"},
        row_counts=_row_counts(104_743, 5_463, 5_463),
        row_count_hints={("train", 108_436): _QNLI_1, ("dev", 5_732): _QNLI_1, ("test", 5_740): _QNLI_1},
        folders=("qnli", "qnliv2"),
    ),
    FineTuneTask(
        name="rte",
        title="RTE",
        metrics=_on_dev("accuracy"),
        labels=_ENTAILMENT,
        submission={"test": "RTE"},
        row_counts=_row_counts(2_490, 277, 3_000),
        folders=("rte",),
        can_start_from_mnli=True,
    ),
    FineTuneTask(
        name="wnli",
        title="WNLI",
        metrics=_on_dev("accuracy"),
        labels=_BINARY,
        hub_labels=("not_entailment", "entailment"),
        submission={"test": "WNLI"},
        row_counts=_row_counts(635, 71, 146),
        folders=("wnli",),
        remark="adversarial: compare with the majority",
    ),
    FineTuneTask(
        name="follows",
        title="follows",
        metrics=_on_dev("accuracy"),
        labels=("follows", "not_follows"),
        folders=("follows",),
    ),
)
TASKS: Mapping[TaskName, FineTuneTask] = {task.name: task for task in _ALL}
