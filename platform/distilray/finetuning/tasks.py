"""The nine tasks of GLUE (Wang et al. 2019), and `follows`, which has no test set and no official counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from distilray.config.glue import TaskName

_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_OFFICIAL = ("sentence1", "sentence2")


@dataclass(frozen=True)
class GlueTask:
    """What a task is, and how its official files look.

    Attributes:
        name: as in recipes and on the hub.
        title: as in papers and in official folder names.
        labels: the words of the classes in the order of class ids, which is the hub's; empty for scores from 0 to 5.
        hub_labels: the names of the classes on the hub in the same order; empty where they are `labels`.
        rows: official rows by split, each count that a release has; empty when anything goes.
        columns: header names of one text, or of two, in the TSV files.
        hub_columns: the same in the hub's Parquet files.
        label: header name of the label in the TSV files.
        index: header name of the row's number in the TSV test file.
        header: the columns of a train and a dev file that has no header line.
        dev: the dev sets.
        test: the test sets.
        folders: names that the task's folder may have, in lower case.
        known_rows: what a wrong count of rows tells, by split.
        torn_rows: whether the official train and dev files have lines that are pieces of a row.
    """

    name: TaskName
    title: str
    labels: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    columns: tuple[str, ...] = _OFFICIAL
    hub_columns: tuple[str, ...] = _OFFICIAL
    label: str = "label"
    index: str = "index"
    header: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("dev",)
    test: tuple[str, ...] = ("test",)
    folders: tuple[str, ...] = ()
    known_rows: Mapping[tuple[str, int], str] = field(default_factory=dict)
    torn_rows: bool = False
    hub_labels: tuple[str, ...] = ()

    @property
    def is_regression(self) -> bool:
        """Whether labels are scores instead of classes."""
        return not self.labels

    @property
    def num_outputs(self) -> int:
        """Numbers that a model gives for each row."""
        return len(self.labels) or 1


def _rows(train: int, dev: int, test: int) -> dict[str, tuple[int, ...]]:
    return {"train": (train,), "dev": (dev,), "test": (test,)}


_HEADER_LOST = "one row is lost: it was read or saved as a header, which CoLA does not have"
_QNLI_1 = "that is version 1 of QNLI; get version 2"

_ALL = (
    GlueTask(
        name="cola",
        title="CoLA",
        labels=_BINARY,
        hub_labels=("unacceptable", "acceptable"),
        rows=_rows(8_551, 1_043, 1_063),
        columns=("sentence",),
        hub_columns=("sentence",),
        header=("source", "label", "mark", "sentence"),
        folders=("cola",),
        known_rows={("train", 8_550): _HEADER_LOST, ("dev", 1_042): _HEADER_LOST},
    ),
    GlueTask(
        name="sst2",
        title="SST-2",
        labels=_BINARY,
        hub_labels=("negative", "positive"),
        rows=_rows(67_349, 872, 1_821),
        columns=("sentence",),
        hub_columns=("sentence",),
        folders=("sst-2", "sst2"),
    ),
    GlueTask(
        name="mrpc",
        title="MRPC",
        labels=_BINARY,
        hub_labels=("not_equivalent", "equivalent"),
        rows=_rows(3_668, 408, 1_725),
        columns=("#1 String", "#2 String"),
        label="Quality",
        folders=("mrpc",),
        known_rows={("train", 4_076): "the dev rows are among them; leave out those of dev_ids.tsv"},
    ),
    GlueTask(
        name="stsb",
        title="STS-B",
        labels=(),
        rows=_rows(5_749, 1_500, 1_379),
        label="score",
        folders=("sts-b", "stsb"),
    ),
    GlueTask(
        name="qqp",
        title="QQP",
        labels=_BINARY,
        hub_labels=("not_duplicate", "duplicate"),
        rows={"train": (363_846, 363_870), "dev": (40_430, 40_431), "test": (390_965,)},
        columns=("question1", "question2"),
        hub_columns=("question1", "question2"),
        label="is_duplicate",
        index="id",
        folders=("qqp",),
        torn_rows=True,
    ),
    GlueTask(
        name="mnli",
        title="MNLI",
        labels=("entailment", "neutral", "contradiction"),
        rows={
            "train": (392_702,),
            "dev_matched": (9_815,),
            "dev_mismatched": (9_832,),
            "test_matched": (9_796,),
            "test_mismatched": (9_847,),
            "ax": (1_104,),
        },
        hub_columns=("premise", "hypothesis"),
        label="gold_label",
        dev=("dev_matched", "dev_mismatched"),
        test=("test_matched", "test_mismatched", "ax"),
        folders=("mnli",),
    ),
    GlueTask(
        name="qnli",
        title="QNLI",
        labels=_ENTAILMENT,
        rows=_rows(104_743, 5_463, 5_463),
        columns=("question", "sentence"),
        hub_columns=("question", "sentence"),
        folders=("qnli", "qnliv2"),
        known_rows={("train", 108_436): _QNLI_1, ("dev", 5_732): _QNLI_1, ("test", 5_740): _QNLI_1},
    ),
    GlueTask(name="rte", title="RTE", labels=_ENTAILMENT, rows=_rows(2_490, 277, 3_000), folders=("rte",)),
    GlueTask(
        name="wnli",
        title="WNLI",
        labels=_BINARY,
        hub_labels=("not_entailment", "entailment"),
        rows=_rows(635, 71, 146),
        folders=("wnli",),
    ),
    GlueTask(
        name="follows", title="follows", labels=("follows", "not_follows"), rows={}, test=(), folders=("follows",)
    ),
)
TASKS: Mapping[TaskName, GlueTask] = {task.name: task for task in _ALL}
