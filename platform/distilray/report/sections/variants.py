"""Variants of the report's student: how their settings differ, and the effect on the scores.

Variants without one loss are the ablation of the DistilBERT paper (table 4), whose figures are shown with ours.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from rich.table import Table

from distilray.config.glue import SCORE, TaskName
from distilray.errors import InputError
from distilray.report.blocks import from_rich, join, paragraph
from distilray.report.figures import flat, shown
from distilray.report.runs import Run, Runs, Values
from distilray.runtime import storage
from distilray.runtime.metrics import read_metrics
from distilray.training.reporter import HELDOUT_FILE

# The one setting in which a variant differs, and the change of the macro score on GLUE against the full loss in the
# DistilBERT paper (table 4).
PAPER: Mapping[tuple[str, object], float] = {
    ("losses.alpha_ce", 0.0): -2.96,
    ("losses.alpha_cos", 0.0): -1.46,
    ("losses.alpha_mlm", 0.0): -0.31,
    ("student.initialization", "random"): -3.69,
}
AGAIN = "distilled again on each task"

Scores = Mapping[tuple[TaskName, int], float]


@dataclass(frozen=True)
class Variant:
    """A student and a fine-tuning of it.

    Attributes:
        run: its distillation.
        differs: settings that differ from those of the report's student.
        glue: score by task and seed; empty if it was not fine-tuned.
        again: the fine-tuning was a second distillation.
    """

    run: Run
    differs: Mapping[str, object]
    glue: Scores
    again: bool = False

    @property
    def name(self) -> str:
        return f"{self.run.name}, {AGAIN}" if self.again else self.run.name

    @property
    def paper(self) -> float | None:
        """The change of the GLUE mean in the paper for the same difference."""
        # Compared, not looked up: a value may be a list, such as the teacher's layers.
        return next((change for (key, value), change in PAPER.items() if self.differs == {key: value}), None)


def variants_section(runs: Runs) -> Markup:
    """Return the students of a report; nothing if there is only one, fine-tuned in one way."""
    compared = variants(runs)
    if len(compared) < 2:
        return Markup("")
    return join(
        from_rich(variants_table(compared)),
        paragraph(
            "Pseudo-perplexity and agreement (the share of masks at which student and teacher have the same best "
            "token) at the masks of held-out examples. GLUE: dev split, times 100, mean of the seeds; a change is "
            "taken over the tasks and seeds that both have, with the standard error that follows from the spread "
            "between seeds. The change in the paper is that of the mean of nine tasks."
        ),
    )


def variants(runs: Runs) -> list[Variant]:
    """Return the report's student, then all others with the same teacher and examples, each with its fine-tunings."""
    subject = runs.subject
    if subject is None or subject.job != "distill":
        return []
    read = {name: entry for name, entry in subject.inputs.items() if name in ("teacher", "shards")}
    students = [run for run in runs.of("distill") if all(run.inputs.get(name) == entry for name, entry in read.items())]
    tuned = [(run, runs.input_of(run, "model")) for run in runs.of("evaluate_glue")]
    compared = []
    for student in students:
        differs = _differences(student, subject)
        own = [run for run, model in tuned if model is student]
        plain = [_by_task_and_seed(run.scores()) for run in own if not run.config.get("distillation")]
        again = [_by_task_and_seed(run.scores()) for run in own if run.config.get("distillation")]
        compared += [Variant(student, differs, scores) for scores in plain[:1] or [{}]]
        compared += [Variant(student, differs, scores, again=True) for scores in again[:1]]
    return compared


def variants_table(compared: Sequence[Variant]) -> Table:
    """Return a row for each variant; changes are relative to the first. GLUE: the tasks that all of them have."""
    tuned = [variant.glue for variant in compared if variant.glue]
    tasks = [task for task in _tasks(compared[0].glue) if all(task in _tasks(scores) for scores in tuned)]
    table = Table(title="students with one thing changed each, beside the paper's table 4")
    heldout = ("pseudo-perplexity", "change", "agreement", "change")
    for heading in ("student", "differs in", *heldout, *tasks, "GLUE mean", "change", "paper"):
        table.add_column(heading, justify="left" if heading in ("student", "differs in") else "right")
    noise, base = _seed_variance(tuned), compared[0]
    for variant in compared:
        differs = ", ".join(f"{key} {shown(key, value)}" for key, value in variant.differs.items())
        paper = "" if variant.paper is None else f"{variant.paper:+.2f}"
        table.add_row(variant.name, differs, *_heldout(variant, base), *_glue(variant, base, tasks, noise), paper)
    return table


def final_heldout_scores(run_dir: str) -> Mapping[str, float]:
    """Return the held-out scores at the end of a run.

    Raises:
        InputError: the run has none.
    """
    rows = read_metrics(storage.join(run_dir, HELDOUT_FILE))
    if not rows:
        raise InputError(f"{run_dir}: no {HELDOUT_FILE}; encode the corpus with a heldout_fraction above 0")
    return rows[-1]


def _heldout(variant: Variant, base: Variant) -> list[str]:
    """Return the final pseudo-perplexity and agreement, each with its change."""
    scores, others = final_heldout_scores(variant.run.uri), final_heldout_scores(base.run.uri)
    values = [f"{math.exp(scores['mlm']):.1f}", f"{100 * scores['agreement']:.1f}"]
    changes = ["", ""]
    if variant.run is not base.run:
        perplexity, agreement = math.exp(scores["mlm"] - others["mlm"]) - 1, scores["agreement"] - others["agreement"]
        changes = [f"{perplexity:+.1%}", f"{100 * agreement:+.1f}"]
    return [values[0], changes[0], values[1], changes[1]]


def _glue(variant: Variant, base: Variant, tasks: Sequence[TaskName], noise: Mapping[TaskName, float]) -> list[str]:
    """Return the mean of each task over the seeds, their mean, and its change."""
    if not variant.glue or not tasks:
        return ["" for _ in (*tasks, "mean", "change")]
    means = [statistics.fmean(value for (name, _), value in variant.glue.items() if name == task) for task in tasks]
    change = "" if variant is base else _change(variant.glue, base.glue, tasks, noise)
    return [*(f"{100 * mean:.1f}" for mean in means), f"{100 * statistics.fmean(means):.1f}", change]


def _differences(run: Run, subject: Run) -> dict[str, object]:
    """Return the settings in which a run differs from the subject."""
    ours, theirs = (dict(flat(each.config)) for each in (run, subject))
    keys = dict.fromkeys([*ours, *theirs])
    return {key: ours.get(key) for key in keys if ours.get(key) != theirs.get(key)}


def _by_task_and_seed(scores: Values) -> dict[tuple[TaskName, int], float]:
    return {(row["task"], row["seed"]): row["value"] for row in scores["rows"] if row["metric"] == SCORE}


def _tasks(scores: Scores) -> list[TaskName]:
    return list(dict.fromkeys(task for task, _ in scores))


def _change(scores: Scores, base: Scores, tasks: Sequence[TaskName], noise: Mapping[TaskName, float]) -> str:
    """Return the change of the mean over the tasks with its standard error; nothing without common seeds in a task."""
    pairs = [[scores[key] - base[key] for key in scores.keys() & base.keys() if key[0] == task] for task in tasks]
    if not all(pairs):
        return ""
    change = statistics.fmean(map(statistics.fmean, pairs))
    # Each of the two models has its own seeds.
    variances = [2 * noise.get(task, 0.0) / len(found) for task, found in zip(tasks, pairs, strict=True)]
    return f"{100 * change:+.1f} ± {100 * math.sqrt(sum(variances)) / len(tasks):.1f}"


def _seed_variance(tuned: Sequence[Scores]) -> dict[TaskName, float]:
    """Return the variance between seeds for each task, pooled over the models that have several."""
    sums: dict[TaskName, list[tuple[float, int]]] = {}
    for scores in tuned:
        for task in _tasks(scores):
            values = [value for (name, _), value in scores.items() if name == task]
            if len(values) > 1:
                sums.setdefault(task, []).append((statistics.variance(values) * (len(values) - 1), len(values) - 1))
    return {task: sum(part for part, _ in parts) / sum(count for _, count in parts) for task, parts in sums.items()}
