"""The claim of DistilBERT for the student of a report: how much of its teacher it keeps, how small and how fast it is.

The paper says 97% of GLUE, 40% fewer parameters, 60% faster (tables 1 and 3); its figures stand beside ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.evaluation.glue.comparison import Comparison, Kept, compare, comparison_of, per_cent
from distilray.evaluation.glue.table import published_scores
from distilray.report.figures import NOTHING, from_rich, label, shown
from distilray.report.model_index import fill_mask_runs, glue_runs
from distilray.report.page import Markup, filled_columns, markup, paragraph
from distilray.report.runs import Run, Runs
from distilray.report.sections.delivery import EFFICIENCY_FILE
from distilray.report.sections.scores import SCORES_FILE, STUDENT, TEACHER

_OURS = (TEACHER, STUDENT, "kept", "kept above chance")
_PAPER = ("BERT base", "DistilBERT", "kept in the paper", "above chance in the paper")
# The paper counts no vocabulary head, and times all of STS-B's dev set, one pair at a time.
_PAPER_COSTS: Mapping[str, tuple[str, str, str]] = {
    "parameters": ("110 M", "66 M", "60.0%"),
    "layer_parameters": ("85 M", "43 M", "50.0%"),
    "latency_ms": ("668 s", "410 s", "61.4%"),
}
_FILL_MASK_KEYS = ("hit@10", "pseudo_perplexity")
_COSTS = ("parameters", "layer_parameters", "megabytes", "latency_ms", "texts_per_s")

Values = Mapping[str, Any]
Line = tuple[str, ...]
"""A name, the majority baseline, the cells of `_OURS`, those of `_PAPER`."""


def claim_section(runs: Runs) -> Markup:
    """Student beside teacher, and DistilBERT beside BERT; nothing where neither GLUE nor cost of both was measured."""
    lines = claim_lines(runs)
    if not lines:
        return Markup("")
    return markup(from_rich(claim_table(lines)), *[paragraph(note) for note in _notes(runs)])


def claim_table(lines: Sequence[Line]) -> Table:
    """The lines as a table, without the columns in which they have nothing."""
    head, rows = filled_columns(("", "majority", *_OURS, *_PAPER), lines)
    has_paper = any(heading in head for heading in _PAPER)
    table = Table(title="student beside teacher, and the paper's" if has_paper else "student beside teacher")
    for heading in head:
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def claim_lines(runs: Runs) -> list[Line]:
    """Return the lines of the table: name, teacher, student, shares that are kept, and the same of the paper."""
    return [*_glue(runs), *_fill_mask(runs), *_costs(runs)]


def compared_glue(runs: Runs) -> tuple[Values, Values | None, Comparison] | None:
    """The scores of the student and, if its run is here, of its teacher, and how they compare; None without both."""
    for run, student in glue_runs(runs):
        known = runs.input_of(run, TEACHER)
        teacher = None if known is None else known.values(SCORES_FILE)
        compared = comparison_of(student, teacher)
        if compared is not None and not run.config.get("distillation"):
            return student, teacher, compared
    return None


def by_task_and_seed(scores: Values) -> dict[tuple[TaskName, int], float]:
    """The score of each fine-tuning of a GLUE run."""
    return {(row["task"], row["seed"]): row["value"] for row in scores["rows"] if row["metric"] == SCORE}


def _notes(runs: Runs) -> list[str]:
    """Sentences on the GLUE lines of the table."""
    glue = compared_glue(runs)
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
    if any(kept.raw_interval for kept in compared.tasks.values()):
        notes.append(
            "Intervals: 95%, with dev rows drawn with replacement, the same for both models, and seeds of each."
        )
    else:
        notes.append("The shares have no intervals: these need the dev predictions of both models.")
    notes.append("The paper's models have other sizes, so that only the shares can be compared.")
    return notes


def _glue(runs: Runs) -> list[Line]:
    glue = compared_glue(runs)
    if glue is None:
        return []
    student, teacher, compared = glue
    lines = []
    for task, kept in compared.tasks.items():
        cells = _kept_cells(kept, is_counted=task not in compared.left_out)
        cells[:2] = [_spread(scores, task, cell) for scores, cell in zip((teacher, student), cells, strict=False)]
        published = _published([task])
        lines.append(_line(f"GLUE: {task}", cells, _kept_cells(published.all), majority=_hundredfold(kept.majority)))
    means = [(compared.mean, f"mean of {', '.join(compared.counted)}", compared.counted)]
    if compared.all != compared.mean:
        means.append((compared.all, "mean of all these", list(compared.tasks)))
    for kept_mean, name, tasks in means:
        if kept_mean is not None:
            cells, majority = _kept_cells(kept_mean), _hundredfold(kept_mean.majority)
            lines.append(_line(f"GLUE: {name}", cells, _kept_cells(_published(tasks).all), majority=majority))
    paper = _published(GLUE_TASKS)
    name = f"GLUE: mean of all nine, less {', '.join(paper.left_out)}"
    return [*lines, _line(name, [], _kept_cells(paper.mean))]


def _published(tasks: Sequence[TaskName]) -> Comparison:
    """Compare the paper's models."""
    theirs, ours = (published_scores(name, tasks) for name in _PAPER[:2])
    return compare(ours, theirs)


def _kept_cells(kept: Kept | None, *, is_counted: bool = True) -> list[str]:
    """Teacher, student and both shares; no share above chance of a teacher that is at chance."""
    if kept is None:
        return []
    above = per_cent(kept.above_chance, kept.above_chance_interval) if is_counted else ""
    return [_hundredfold(kept.teacher), _hundredfold(kept.student), per_cent(kept.raw, kept.raw_interval), above]


def _line(name: str, ours: Sequence[str], paper: Sequence[str] = (), *, majority: str = "") -> Line:
    """A line with empty cells for what is missing."""
    cells = [(*part, *[""] * (len(head) - len(part))) for part, head in ((ours, _OURS), (paper, _PAPER))]
    return (name, majority, *cells[0], *cells[1])


def _fill_mask(runs: Runs) -> list[Line]:
    for _, name, scores in fill_mask_runs(runs):
        if name == STUDENT and TEACHER in scores:
            pairs = [(key, scores[TEACHER].get(key), scores[name].get(key)) for key in _FILL_MASK_KEYS]
            return [
                _line(f"fill-mask: {label(key)}", [shown(key, theirs), shown(key, ours), _ratio(ours, theirs)])
                for key, theirs, ours in pairs
                if theirs is not None and ours is not None
            ]
    return []


def _costs(runs: Runs) -> list[Line]:
    for run in runs.of("measure_efficiency"):
        rows = run.values(EFFICIENCY_FILE)["models"]
        theirs, ours = (next((row for name, row in rows.items() if is_it(runs, run, name)), None) for is_it in _WHO)
        if theirs is not None and ours is not None:
            return [
                _line(
                    label(key),
                    [shown(key, theirs[key]), shown(key, ours[key]), _ratio(ours[key], theirs[key])],
                    _PAPER_COSTS.get(key, ()),
                )
                for key in _COSTS
                if key in theirs and key in ours
            ]
    return []


def _is_teacher(runs: Runs, run: Run, name: str) -> bool:
    """Whether a model of an efficiency run is the one that the student has learnt from."""
    assert runs.subject is not None
    known, entry = runs.subject.inputs.get(TEACHER, {}), run.inputs.get(f"models.{name}", {})
    return any(key in known and known[key] == entry.get(key) for key in ("content_hash", "fingerprint"))


_WHO = (_is_teacher, lambda runs, run, name: runs.about_subject(run, f"models.{name}"))


def _spread(scores: Values | None, task: TaskName, median: str) -> str:
    """The median with the lowest and the highest seed."""
    if scores is None:
        return median
    lowest, highest = (_hundredfold(scores["summary"][task][SCORE][key]) for key in ("min", "max"))
    return f"{median} ({lowest} to {highest})"


def _hundredfold(score: float) -> str:
    return f"{round(100 * score, 6):.1f}"  # a mean such as 82.75 is not that in binary


def _ratio(ours: float, theirs: float) -> str:
    return per_cent(ours / theirs) if theirs else NOTHING
