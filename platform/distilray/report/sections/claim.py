"""The student next to its teacher: what it keeps, how small and how fast it is, with the figures of the paper.

DistilBERT claims 97% of GLUE, 40% fewer parameters and 60% more speed (tables 1 and 3).
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from rich.table import Table

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.evaluation.glue.comparison import Comparison, KeptShare, compare_scores, find_comparison, format_percent
from distilray.evaluation.glue.table import macro_score, published_scores
from distilray.report.blocks import drop_empty_columns, from_rich, join, paragraph, tiles
from distilray.report.figures import NOTHING, label, shown, size, time
from distilray.report.runs import EFFICIENCY_FILE, STUDENT, TEACHER, Run, Runs, Values
from distilray.report.sections.model_quality import glue_model

_OURS = (TEACHER, STUDENT, "kept", "kept above chance")
_PAPER = ("BERT base", "DistilBERT", "kept in the paper", "above chance in the paper")
# The paper does not count the vocabulary head, and times all of STS-B's dev set, one pair at a time.
_PAPER_COSTS: Mapping[str, tuple[str, str, str]] = {
    "parameters": ("110 M", "66 M", "60.0%"),
    "layer_parameters": ("85 M", "43 M", "50.0%"),
    "latency_ms": ("668 s", "410 s", "61.4%"),
}
_FILL_MASK_KEYS = ("hit@10", "pseudo_perplexity")
_COSTS = ("parameters", "layer_parameters", "megabytes", "latency_ms", "texts_per_s")

Line = tuple[str, ...]
"""A name, the majority baseline, the cells of `_OURS`, those of `_PAPER`."""
Fact = tuple[str, str, str]


def headline_metrics(runs: Runs) -> Markup:
    """Return headline metrics: size, quality and speed of the student next to its teacher."""
    return tiles([*_size_facts(runs), *_fill_mask_facts(runs), *_glue_facts(runs)])


def claim_section(runs: Runs) -> Markup:
    lines = claim_rows(runs)
    return join(from_rich(claim_table(lines)), *map(paragraph, _notes(runs))) if lines else Markup("")


def claim_table(lines: Sequence[Line]) -> Table:
    """Return the lines as a table without empty columns."""
    head, rows = drop_empty_columns(("", "majority", *_OURS, *_PAPER), lines)
    has_paper = any(heading in head for heading in _PAPER)
    table = Table(title="student beside teacher, and the paper's" if has_paper else "student beside teacher")
    for heading in head:
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def claim_rows(runs: Runs) -> list[Line]:
    return [*_glue_lines(runs), *_fill_mask_lines(runs), *_cost_lines(runs)]


def _compared_glue(runs: Runs) -> tuple[Values, Values | None, Comparison] | None:
    """Return the student's GLUE scores, its teacher's if its run is here, and their comparison."""
    for run, student in runs.glue_scores():
        teacher_run = runs.input_of(run, TEACHER)
        teacher = None if teacher_run is None else teacher_run.scores()
        compared = find_comparison(student, teacher)
        if compared is not None and not run.config.get("distillation"):
            return student, teacher, compared
    return None


def _size_facts(runs: Runs) -> list[Fact]:
    student = runs.subject
    if student is None or "parameters" not in student.counts:
        return []
    own, teacher = student.counts["parameters"], student.counts.get("teacher_parameters")
    remark = f"{own / teacher:.0%} of the teacher's {teacher / 1e6:,.1f} M" if teacher else ""
    facts = [("Parameters of the student", f"{own / 1e6:,.1f} M", remark)]
    if student.weights:
        facts.append(("Weights of the student", size(student.weights["bytes"]), "model.safetensors"))
    return [*facts, ("Distillation", time(student.record["wall_s"]), f"{student.counts['steps']:,} steps")]


def _fill_mask_facts(runs: Runs) -> list[Fact]:
    facts: list[Fact] = []
    for _, name, scores in runs.fill_mask_scores()[:1]:
        teacher, student = scores.get(TEACHER) or {}, scores[name]
        if name == TEACHER:
            continue
        own, other = student.get("hit@10"), teacher.get("hit@10")
        if own is not None:
            facts.append(("Fill-mask, hit@10", f"{own:.3f}", f"{own / other:.1%} of the teacher's" if other else ""))
        if student.get("latency_ms") and teacher.get("latency_ms"):
            speedup = teacher["latency_ms"] / student["latency_ms"]
            remark = f"{student['latency_ms']:.1f} ms a text, CPU, batch 1"
            facts.append(("Speed beside the teacher", f"{speedup:.2f} x", remark))
    return facts


def _glue_facts(runs: Runs) -> list[Fact]:
    facts: list[Fact] = []
    for run in runs.of("evaluate_glue"):
        scores = run.scores()
        mean, count = macro_score(scores["summary"])
        if glue_model(runs, run, scores) == STUDENT and count:
            facts.append(("GLUE macro score, dev", f"{100 * mean:.1f}", f"{count} of {len(GLUE_TASKS)} tasks"))
            break
    compared = _compared_glue(runs)
    if compared and (kept := compared[-1].mean) and kept.above_chance is not None:
        bounds = kept.above_chance_interval
        interval = [f"{bounds[0]:.1%} to {bounds[1]:.1%}"] if bounds else []
        remark = "; ".join([*interval, f"mean of {', '.join(compared[-1].counted)}"])
        facts.append(("GLUE above chance, kept of the teacher's", f"{kept.above_chance:.1%}", remark))
    return facts


def _notes(runs: Runs) -> list[str]:
    """Return notes on the GLUE lines of the table."""
    glue = _compared_glue(runs)
    if glue is None:
        return []
    compared = glue[-1]
    notes = [
        "GLUE: dev split, times 100, median of the seeds and their spread. Kept: the student's score as a share of "
        "the teacher's, or of what the teacher has above the majority baseline. A task enters the mean where the "
        "teacher is at least 3 standard errors above that baseline."
    ]
    if compared.left_out:
        notes.append("Left out: " + "; ".join(f"{task} ({why})" for task, why in compared.left_out.items()) + ".")
    has_intervals = any(kept.raw_interval for kept in compared.tasks.values())
    return [
        *notes,
        "Intervals: 95%, with dev rows drawn with replacement, the same for both models, and seeds of each."
        if has_intervals
        else "The shares have no intervals: these need the dev predictions of both models.",
        "The paper's models have other sizes, so that only the shares can be compared.",
    ]


def _glue_lines(runs: Runs) -> list[Line]:
    glue = _compared_glue(runs)
    if glue is None:
        return []
    student, teacher, compared = glue
    lines = []
    for task, kept in compared.tasks.items():
        cells = _kept_cells(kept, is_counted=task not in compared.left_out)
        cells[:2] = [_spread(scores, task, cell) for scores, cell in zip((teacher, student), cells, strict=False)]
        lines.append(_line(f"GLUE: {task}", cells, _kept_cells(_published([task]).all), kept))
    means = [(compared.mean, f"mean of {', '.join(compared.counted)}", compared.counted)]
    if compared.all != compared.mean:
        means.append((compared.all, "mean of all these", list(compared.tasks)))
    for mean, name, tasks in means:
        if mean is not None:
            lines.append(_line(f"GLUE: {name}", _kept_cells(mean), _kept_cells(_published(tasks).all), mean))
    paper = _published(GLUE_TASKS)
    name = f"GLUE: mean of all nine, less {', '.join(paper.left_out)}"
    return [*lines, _line(name, [], _kept_cells(paper.mean))]


def _published(tasks: Sequence[TaskName]) -> Comparison:
    """Compare the paper's models."""
    teacher, student = (published_scores(name, tasks) for name in _PAPER[:2])
    return compare_scores(student, teacher)


def _kept_cells(kept: KeptShare | None, *, is_counted: bool = True) -> list[str]:
    """Return teacher, student and both shares; without the share above chance if the teacher is at chance."""
    if kept is None:
        return []
    above = format_percent(kept.above_chance, kept.above_chance_interval) if is_counted else ""
    return [_hundredfold(kept.teacher), _hundredfold(kept.student), format_percent(kept.raw, kept.raw_interval), above]


def _line(name: str, ours: Sequence[str], paper: Sequence[str] = (), kept: KeptShare | None = None) -> Line:
    """Return a line with empty cells for missing values."""
    cells = [[*values, *[""] * (len(head) - len(values))] for values, head in ((ours, _OURS), (paper, _PAPER))]
    return (name, _hundredfold(kept.majority) if kept else "", *cells[0], *cells[1])


def _fill_mask_lines(runs: Runs) -> list[Line]:
    for _, name, scores in runs.fill_mask_scores():
        if name == STUDENT and TEACHER in scores:
            return _compared_lines("fill-mask: ", _FILL_MASK_KEYS, scores[TEACHER], scores[name])
    return []


def _cost_lines(runs: Runs) -> list[Line]:
    for run in runs.of("measure_efficiency"):
        models = run.values(EFFICIENCY_FILE)["models"]
        teacher = next((row for name, row in models.items() if _is_teacher(runs, run, name)), None)
        student = next((row for name, row in models.items() if runs.input_is_subject(run, f"models.{name}")), None)
        if teacher is not None and student is not None:
            return _compared_lines("", _COSTS, teacher, student)
    return []


def _compared_lines(prefix: str, keys: Sequence[str], teacher: Values, student: Values) -> list[Line]:
    """Return a line for each key that both models have."""
    pairs = {key: (teacher.get(key), student.get(key)) for key in keys}
    return [
        _line(
            prefix + label(key),
            [shown(key, theirs), shown(key, ours), format_percent(ours / theirs) if theirs else NOTHING],
            _PAPER_COSTS.get(key, ()),
        )
        for key, (theirs, ours) in pairs.items()
        if theirs is not None and ours is not None
    ]


def _is_teacher(runs: Runs, run: Run, name: str) -> bool:
    """Return whether a model of an efficiency run is the teacher of the report's student."""
    teacher = {} if runs.subject is None else runs.subject.inputs.get(TEACHER, {})
    entry = run.inputs.get(f"models.{name}", {})
    return any(key in teacher and teacher[key] == entry.get(key) for key in ("content_hash", "fingerprint"))


def _spread(scores: Values | None, task: TaskName, median: str) -> str:
    """Return the median with the lowest and the highest seed."""
    if scores is None:
        return median
    lowest, highest = (_hundredfold(scores["summary"][task][SCORE][key]) for key in ("min", "max"))
    return f"{median} ({lowest} to {highest})"


def _hundredfold(score: float) -> str:
    return f"{round(100 * score, 6):.1f}"  # a mean such as 82.75 is not exact in binary
