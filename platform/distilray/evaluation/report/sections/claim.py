"""The claim of DistilBERT for the student of a report: how much of its teacher it keeps, how small and how fast it is.

The paper says 97% of GLUE, 40% fewer parameters, 60% faster (tables 1 and 3); its figures stand beside ours.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.config.glue import SCORE, TaskName
from distilray.evaluation.glue.table import PUBLISHED, kept, macro
from distilray.evaluation.report.figures import NOTHING, from_rich, label, shown
from distilray.evaluation.report.model_index import fill_mask_runs, glue_runs
from distilray.evaluation.report.page import Markup, markup, paragraph
from distilray.evaluation.report.runs import Run, Runs
from distilray.evaluation.report.sections.delivery import EFFICIENCY_FILE
from distilray.evaluation.report.sections.scores import SCORES_FILE, STUDENT, TEACHER

_MODELS = ("BERT base", "DistilBERT")
_NO_PAPER = ("", "", "")
# The paper counts no vocabulary head, and times all of STS-B's dev set, one pair at a time.
_PAPER_COSTS: Mapping[str, tuple[str, str, str]] = {
    "parameters": ("110 M", "66 M", "60.0%"),
    "layer_parameters": ("85 M", "43 M", "50.0%"),
    "latency_ms": ("668 s", "410 s", "61.4%"),
}
_FILL_MASK_KEYS = ("hit@10", "pseudo_perplexity")
_COSTS = ("parameters", "layer_parameters", "megabytes", "latency_ms", "texts_per_s")

Values = Mapping[str, Any]
Line = tuple[str, str, str, str, str, str, str]


def claim_section(runs: Runs) -> Markup:
    """Student beside teacher, and DistilBERT beside BERT; nothing where neither GLUE nor cost of both was measured."""
    lines = claim_lines(runs)
    if not lines:
        return Markup("")
    return markup(
        from_rich(claim_table(lines)),
        paragraph(
            "GLUE: dev split, times 100, median of the seeds and their spread; the share is that of the student in the "
            "of the teacher's, and of the mean also that of the lowest and the highest seed. The paper's models have "
            "other sizes and its tasks all their rows, so that only the shares can be compared."
        ),
    )


def claim_table(lines: Sequence[Line]) -> Table:
    """The lines as a table."""
    table = Table(title="student beside teacher, and the paper's")
    headings = ("", TEACHER, STUDENT, "share", *_MODELS, "share")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for line in lines:
        table.add_row(*line)
    return table


def claim_lines(runs: Runs) -> list[Line]:
    """What has been measured of both: name, teacher, student, share, and the same three of the paper."""
    return [*_glue(runs), *_fill_mask(runs), *_costs(runs)]


def compared_glue(runs: Runs) -> tuple[Values, Values] | None:
    """The scores of the student and of the teacher that its run was compared with; None where one is not there."""
    for run, scores in glue_runs(runs):
        teacher = runs.input_of(run, TEACHER)
        if teacher is not None and not run.config.get("distillation"):
            return scores, teacher.values(SCORES_FILE)
    return None


def _glue(runs: Runs) -> list[Line]:
    found = compared_glue(runs)
    if found is None:
        return []
    student, teacher = found
    tasks: list[TaskName] = [task for task in student["summary"] if task in teacher["summary"]]
    lines: list[Line] = []
    for task in tasks:
        ours, theirs = (scores["summary"][task][SCORE] for scores in found)
        paper = [PUBLISHED[name].get(task) for name in _MODELS]
        share = _per_cent(kept(ours["median"], theirs["median"]))
        lines.append((f"GLUE: {task}", _spread(theirs), _spread(ours), share, *_paper(paper)))
    ours, theirs = (macro({task: scores["summary"][task] for task in tasks})[0] for scores in found)
    by_seed = [_per_cent(share) for share in sorted(_kept_by_seed(student, teacher, tasks))]
    share = _per_cent(kept(ours, theirs)) + (f" ({by_seed[0]} to {by_seed[-1]})" if by_seed else "")
    same = [[PUBLISHED[name][task] for task in tasks if task in PUBLISHED[name]] for name in _MODELS]
    paper = [statistics.fmean(scores) if scores else None for scores in same]
    lines.append((f"GLUE: mean of {len(tasks)}", f"{100 * theirs:.1f}", f"{100 * ours:.1f}", share, *_paper(paper)))
    nine = [statistics.fmean(PUBLISHED[name].values()) for name in _MODELS]
    return [*lines, ("GLUE: mean of all nine", NOTHING, NOTHING, NOTHING, *_paper(nine))]


def by_task_and_seed(scores: Values) -> dict[tuple[TaskName, int], float]:
    """The score of each fine-tuning of a GLUE run."""
    return {(row["task"], row["seed"]): row["value"] for row in scores["rows"] if row["metric"] == SCORE}


def _kept_by_seed(student: Values, teacher: Values, tasks: Sequence[TaskName]) -> list[float]:
    """The share that is kept of the mean over the tasks, for each seed that both have for all of them."""
    ours, theirs = by_task_and_seed(student), by_task_and_seed(teacher)
    seeds = {seed for _, seed in ours if all((task, seed) in ours and (task, seed) in theirs for task in tasks)}
    means = [[statistics.fmean(found[task, seed] for task in tasks) for found in (ours, theirs)] for seed in seeds]
    return [kept(own, other) for own, other in means]


def _fill_mask(runs: Runs) -> list[Line]:
    for _, name, scores in fill_mask_runs(runs):
        if name == STUDENT and TEACHER in scores:
            pairs = [(key, scores[TEACHER].get(key), scores[name].get(key)) for key in _FILL_MASK_KEYS]
            return [
                (f"fill-mask: {label(key)}", shown(key, theirs), shown(key, ours), _ratio(ours, theirs), *_NO_PAPER)
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
                (
                    label(key),
                    shown(key, theirs[key]),
                    shown(key, ours[key]),
                    _ratio(ours[key], theirs[key]),
                    *_PAPER_COSTS.get(key, _NO_PAPER),
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


def _spread(figures: Mapping[str, float]) -> str:
    median, lowest, highest = (100 * figures[key] for key in ("median", "min", "max"))
    return f"{median:.1f} ({lowest:.1f} to {highest:.1f})"


def _paper(scores: Sequence[float | None]) -> tuple[str, str, str]:
    theirs, ours = scores
    if theirs is None or ours is None:
        return _NO_PAPER
    return f"{theirs:.1f}", f"{ours:.1f}", _per_cent(kept(ours, theirs))


def _ratio(ours: float, theirs: float) -> str:
    return _per_cent(ours / theirs) if theirs else NOTHING


def _per_cent(share: float) -> str:
    return NOTHING if math.isnan(share) else f"{share:.1%}"
