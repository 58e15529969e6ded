"""Comparison of the student with its teacher in quality, size and speed, next to the DistilBERT paper.

The paper claims 97% of the GLUE score with 40% fewer parameters and 60% more speed (tables 1 and 3).
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from rich.table import Table

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.evaluation.glue.comparison import Comparison, KeptShare, compare_scores, find_comparison, format_percent
from distilray.evaluation.glue.table import macro_score, published_scores
from distilray.report.blocks import drop_empty_columns, from_rich, join, paragraph, tiles
from distilray.report.formatting import NOTHING, format_duration, format_size, format_value, label
from distilray.report.runs import EFFICIENCY_FILE, STUDENT, TEACHER, Run, Runs, Values
from distilray.report.sections.model_quality import glue_model

_OURS = (TEACHER, STUDENT, "kept", "kept above chance")
_PAPER = ("BERT base", "DistilBERT", "kept in the paper", "above chance in the paper")
# The paper does not count the masked-LM head, and times the whole dev set of STS-B, one pair at a time.
_PAPER_COSTS: Mapping[str, tuple[str, str, str]] = {
    "parameters": ("110 M", "66 M", "60.0%"),
    "layer_parameters": ("85 M", "43 M", "50.0%"),
    "latency_ms": ("668 s", "410 s", "61.4%"),
}
_FILL_MASK_KEYS = ("hit@10", "pseudo_perplexity")
_COSTS = ("parameters", "layer_parameters", "megabytes", "latency_ms", "texts_per_s")

Row = tuple[str, ...]
"""A name, the majority baseline, the cells of `_OURS` and those of `_PAPER`."""
Metric = tuple[str, str, str]
"""Name, value and remark."""


def headline_metrics(runs: Runs) -> Markup:
    """Return tiles with size, quality and speed of the student relative to its teacher."""
    return tiles([*_size_metrics(runs), *_fill_mask_metrics(runs), *_glue_metrics(runs)])


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


def _size_metrics(runs: Runs) -> list[Metric]:
    student = runs.subject
    if student is None or "parameters" not in student.counts:
        return []
    own, teacher = student.counts["parameters"], student.counts.get("teacher_parameters")
    remark = f"{own / teacher:.0%} of the teacher's {teacher / 1e6:,.1f} M" if teacher else ""
    metrics = [("Parameters of the student", f"{own / 1e6:,.1f} M", remark)]
    if student.weights:
        metrics.append(("Weights of the student", format_size(student.weights["bytes"]), "model.safetensors"))
    return [*metrics, ("Distillation", format_duration(student.record["wall_s"]), f"{student.counts['steps']:,} steps")]


def _fill_mask_metrics(runs: Runs) -> list[Metric]:
    metrics: list[Metric] = []
    for _, name, scores in runs.fill_mask_scores()[:1]:
        teacher, student = scores.get(TEACHER) or {}, scores[name]
        if name == TEACHER:
            continue
        own, other = student.get("hit@10"), teacher.get("hit@10")
        if own is not None:
            metrics.append(("Fill-mask, hit@10", f"{own:.3f}", f"{own / other:.1%} of the teacher's" if other else ""))
        if student.get("latency_ms") and teacher.get("latency_ms"):
            speedup = teacher["latency_ms"] / student["latency_ms"]
            remark = f"{student['latency_ms']:.1f} ms per text, CPU, batch 1"
            metrics.append(("Speedup over the teacher", f"{speedup:.2f} x", remark))
    return metrics


def _glue_metrics(runs: Runs) -> list[Metric]:
    metrics: list[Metric] = []
    for run in runs.by_job("evaluate_glue"):
        scores = run.read_scores()
        mean, count = macro_score(scores["summary"])
        if glue_model(runs, run, scores) == STUDENT and count:
            metrics.append(("GLUE macro score, dev", f"{100 * mean:.1f}", f"{count} of {len(GLUE_TASKS)} tasks"))
            break
    glue = _glue_comparison(runs)
    if glue and (kept := glue[-1].mean) and kept.above_chance is not None:
        bounds = kept.above_chance_interval
        interval = [f"{bounds[0]:.1%} to {bounds[1]:.1%}"] if bounds else []
        remark = "; ".join([*interval, f"mean of {', '.join(glue[-1].counted)}"])
        metrics.append(("GLUE above chance, share of the teacher's", f"{kept.above_chance:.1%}", remark))
    return metrics


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
    for _, name, scores in runs.fill_mask_scores():
        if name == STUDENT and TEACHER in scores:
            return _comparison_rows("fill-mask: ", _FILL_MASK_KEYS, scores[TEACHER], scores[name])
    return []


def _cost_rows(runs: Runs) -> list[Row]:
    for run in runs.by_job("measure_efficiency"):
        models = run.read_json(EFFICIENCY_FILE)["models"]
        teacher = next((row for name, row in models.items() if _is_teacher(runs, run, name)), None)
        student = next((row for name, row in models.items() if runs.input_is_subject(run, f"models.{name}")), None)
        if teacher is not None and student is not None:
            return _comparison_rows("", _COSTS, teacher, student)
    return []


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
