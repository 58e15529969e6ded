"""Comparison of the student with its teacher in quality, size and speed, next to the DistilBERT paper.

The paper claims 97% of the GLUE score with 40% fewer parameters and 60% more speed (tables 1 and 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from rich.table import Table

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.evaluation.glue.comparison import Comparison, KeptShare, compare_scores, find_comparison, format_percent
from distilray.evaluation.glue.table import published_scores
from distilray.report.blocks import drop_empty_columns, figure, from_rich, join, paragraph
from distilray.report.charts import Bar, comparison_chart
from distilray.report.formatting import NOTHING, format_value, label
from distilray.report.runs import EFFICIENCY_FILE, STUDENT, TEACHER, Run, Runs, Values

_OURS = (TEACHER, STUDENT, "kept", "kept above chance")
_PAPER = ("BERT base", "DistilBERT", "kept in the paper", "above chance in the paper")
# The paper does not count the masked-LM head, and times the whole dev set of STS-B, one pair at a time.
_PAPER_COSTS: Mapping[str, tuple[str, str, str]] = {
    "parameters": ("110 M", "66 M", "60.0%"),
    "layer_parameters": ("85 M", "43 M", "50.0%"),
    "latency_ms": ("668 s", "410 s", "61.4%"),
}
_FILL_MASK_KEYS = ("hit@10", "pseudo_perplexity")
_SIZE, _TIME = "parameters", "time per text"
_COSTS = ("parameters", "layer_parameters", "megabytes", "latency_ms", "texts_per_s")

Row = tuple[str, ...]
"""A name, the majority baseline, the cells of `_OURS` and those of `_PAPER`."""


@dataclass(frozen=True)
class _Measure:
    """A measure with the values of teacher and student, and the text of a value as a format string."""

    name: str
    values: Sequence[Any]
    form: str

    @property
    def share(self) -> float:
        teacher, student = self.values
        return float(student / teacher)

    @property
    def texts(self) -> list[str]:
        return [self.form.format(value) for value in self.values]


def verdict(runs: Runs, name: str) -> str:
    """Return quality, size and speed of the student relative to its teacher in one sentence, without a full stop.

    The sentence is empty if nothing was measured on both models.
    """
    shares = {measure.name: measure.share for measure in _measures(runs)}
    kept = " and ".join(f"{share:.1%} of {key}" for key, share in shares.items() if key not in (_SIZE, _TIME))
    clauses = [f"keeps {kept}"] if kept else []
    if _SIZE in shares:
        clauses += [f"at {shares[_SIZE]:.0%} of the size" if kept else f"has {shares[_SIZE]:.0%} of its teacher's size"]
    sentence = " ".join(clauses)
    if _TIME in shares:
        speed = f"{1 / shares[_TIME]:.1f}x as fast"
        sentence += f", {speed}" if sentence else f"is {speed} as its teacher"
    return f"{name} {sentence}" if sentence else ""


def claim_chart(runs: Runs) -> Markup:
    """Return a chart of the measures in the verdict, in percent of the teacher's."""
    groups = {
        f"{measure.name}\n{'less' if measure.name in (_SIZE, _TIME) else 'more'} is better": {
            TEACHER: Bar(100, measure.texts[0]),
            STUDENT: Bar(100 * measure.share, f"{measure.share:.1%} ({measure.texts[1]})"),
        }
        for measure in _measures(runs)
    }
    caption = "The student in percent of its teacher"
    return figure(caption, comparison_chart(caption, groups, x_label="% of the teacher"))


def claim_section(runs: Runs) -> Markup:
    rows = claim_rows(runs)
    return join(from_rich(claim_table(rows)), *map(paragraph, _notes(runs))) if rows else Markup("")


def claim_table(rows: Sequence[Row]) -> Table:
    """Return a table without empty columns."""
    head, cells = drop_empty_columns(("", "majority", *_OURS, *_PAPER), rows)
    has_paper = any(heading in head for heading in _PAPER)
    table = Table(title="student and teacher, with those of the paper" if has_paper else "student and teacher")
    for heading in head:
        table.add_column(heading, justify="right" if heading else "left")
    for row in cells:
        table.add_row(*map(str, row))
    return table


def claim_rows(runs: Runs) -> list[Row]:
    return [*_glue_rows(runs), *_fill_mask_rows(runs), *_cost_rows(runs)]


def _glue_comparison(runs: Runs) -> tuple[Values, Values | None, Comparison] | None:
    """Return the student's GLUE scores, the teacher's if the report has its run, and their comparison."""
    for run, student in runs.glue_scores():
        teacher_run = runs.input_of(run, TEACHER)
        teacher = None if teacher_run is None else teacher_run.read_scores()
        comparison = find_comparison(student, teacher)
        if comparison is not None and not run.config.get("distillation"):
            return student, teacher, comparison
    return None


def _measures(runs: Runs) -> list[_Measure]:
    """Return the measures that both models have: quality, then size and time."""
    fill_mask, glue = _fill_mask_pair(runs) or ({}, {}), _glue_comparison(runs)
    costs, counts = _cost_pair(runs) or fill_mask, runs.subject.counts if runs.subject else {}
    mean = glue[-1].mean if glue else None
    above_chance = [100 * (score - mean.majority) for score in (mean.teacher, mean.student)] if mean else [None, None]
    parameters = [counts.get(key, 0) / 1e6 for key in ("teacher_parameters", "parameters")]
    measures = (
        _Measure("hit@10", [scores.get("hit@10") for scores in fill_mask], "{:.3f}"),
        _Measure("GLUE above chance", above_chance, "{:.1f}"),
        _Measure(_SIZE, parameters, "{:,.1f} M"),
        _Measure(_TIME, [row.get("latency_ms") for row in costs], "{:,.1f} ms"),
    )
    return [measure for measure in measures if measure.values[0] and measure.values[1] is not None]


def _notes(runs: Runs) -> list[str]:
    """Return notes on the GLUE rows of the table."""
    glue = _glue_comparison(runs)
    if glue is None:
        return []
    comparison = glue[-1]
    notes = [
        "GLUE: scores on the dev split, times 100, with the median and the range over the seeds. Kept: the student's "
        "share of the teacher's score; kept above chance: its share of the teacher's score above the majority "
        "baseline. The mean includes the tasks on which the teacher is at least 3 standard errors above that baseline."
    ]
    if comparison.left_out:
        notes.append(
            "Left out: " + "; ".join(f"{task} ({reason})" for task, reason in comparison.left_out.items()) + "."
        )
    has_intervals = any(kept.raw_interval for kept in comparison.tasks.values())
    return [
        *notes,
        "Intervals: 95%, from a bootstrap over dev rows, the same for both models, and over the seeds of each model."
        if has_intervals
        else "The shares have no intervals: these need the dev predictions of both models.",
        "The paper's models have different sizes, so only the shares can be compared.",
    ]


def _glue_rows(runs: Runs) -> list[Row]:
    glue = _glue_comparison(runs)
    if glue is None:
        return []
    student, teacher, comparison = glue
    rows = []
    for task, kept in comparison.tasks.items():
        cells = _kept_cells(kept, is_counted=task not in comparison.left_out)
        cells[:2] = [_with_range(scores, task, cell) for scores, cell in zip((teacher, student), cells, strict=False)]
        rows.append(_row(f"GLUE: {task}", cells, _kept_cells(_published([task]).all), kept))
    means = [(comparison.mean, f"mean of {', '.join(comparison.counted)}", comparison.counted)]
    if comparison.all != comparison.mean:
        means.append((comparison.all, "mean of all these", list(comparison.tasks)))
    for mean, name, tasks in means:
        if mean is not None:
            rows.append(_row(f"GLUE: {name}", _kept_cells(mean), _kept_cells(_published(tasks).all), mean))
    paper = _published(GLUE_TASKS)
    name = f"GLUE: mean of all nine without {', '.join(paper.left_out)}"
    return [*rows, _row(name, [], _kept_cells(paper.mean))]


def _published(tasks: Sequence[TaskName]) -> Comparison:
    """Compare the published scores of the paper's models."""
    teacher, student = (published_scores(name, tasks) for name in _PAPER[:2])
    return compare_scores(student, teacher)


def _kept_cells(kept: KeptShare | None, *, is_counted: bool = True) -> list[str]:
    """Return the cells for teacher, student and both shares; the second one only if the teacher is above chance."""
    if kept is None:
        return []
    above = format_percent(kept.above_chance, kept.above_chance_interval) if is_counted else ""
    return [_times_100(kept.teacher), _times_100(kept.student), format_percent(kept.raw, kept.raw_interval), above]


def _row(name: str, ours: Sequence[str], paper: Sequence[str] = (), kept: KeptShare | None = None) -> Row:
    """Return a row with empty cells for missing values."""
    cells = [[*values, *[""] * (len(head) - len(values))] for values, head in ((ours, _OURS), (paper, _PAPER))]
    return (name, _times_100(kept.majority) if kept else "", *cells[0], *cells[1])


def _fill_mask_rows(runs: Runs) -> list[Row]:
    pair = _fill_mask_pair(runs)
    return _comparison_rows("fill-mask: ", _FILL_MASK_KEYS, *pair) if pair else []


def _cost_rows(runs: Runs) -> list[Row]:
    pair = _cost_pair(runs)
    return _comparison_rows("", _COSTS, *pair) if pair else []


def _fill_mask_pair(runs: Runs) -> tuple[Values, Values] | None:
    """Return the scores of teacher and student in the first fill-mask run with both."""
    pairs = [(scores[TEACHER], scores[name]) for _, name, scores in runs.fill_mask_scores()
             if name == STUDENT and TEACHER in scores]  # fmt: skip
    return pairs[0] if pairs else None


def _cost_pair(runs: Runs) -> tuple[Values, Values] | None:
    """Return the results of teacher and student in the first efficiency run with both."""
    for run in runs.by_job("measure_efficiency"):
        models = run.read_json(EFFICIENCY_FILE)["models"]
        teacher = next((row for name, row in models.items() if _is_teacher(runs, run, name)), None)
        student = next((row for name, row in models.items() if runs.input_is_subject(run, f"models.{name}")), None)
        if teacher is not None and student is not None:
            return teacher, student
    return None


def _comparison_rows(prefix: str, keys: Sequence[str], teacher: Values, student: Values) -> list[Row]:
    """Return a row for each key that has a value for both models."""
    pairs = {key: (teacher.get(key), student.get(key)) for key in keys}
    return [
        _row(
            prefix + label(key),
            [format_value(key, base), format_value(key, own), format_percent(own / base) if base else NOTHING],
            _PAPER_COSTS.get(key, ()),
        )
        for key, (base, own) in pairs.items()
        if base is not None and own is not None
    ]


def _is_teacher(runs: Runs, run: Run, name: str) -> bool:
    """Return True if the named model of an efficiency run is the teacher of the report's student."""
    teacher = {} if runs.subject is None else runs.subject.inputs.get(TEACHER, {})
    entry = run.inputs.get(f"models.{name}", {})
    return any(key in teacher and teacher[key] == entry.get(key) for key in ("content_hash", "fingerprint"))


def _with_range(scores: Values | None, task: TaskName, median: str) -> str:
    """Add the minimum and maximum over the seeds to a median."""
    if scores is None:
        return median
    lowest, highest = (_times_100(scores["summary"][task][SCORE][key]) for key in ("min", "max"))
    return f"{median} ({lowest} to {highest})"


def _times_100(score: float) -> str:
    return f"{round(100 * score, 6):.1f}"  # a mean such as 82.75 is not exactly representable, so round it first
