"""Students beside the one that a report is about: what each was made with otherwise, and what that changes.

Without one loss each they are the ablation of the DistilBERT paper (table 4), whose figures stand beside ours.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from distilray.config.glue import TaskName
from distilray.distillation.ablation import PAPER, last_scores
from distilray.evaluation.report.figures import flat, from_rich, shown
from distilray.evaluation.report.page import Markup, markup, paragraph
from distilray.evaluation.report.runs import Run, Runs
from distilray.evaluation.report.sections.claim import by_task_and_seed
from distilray.evaluation.report.sections.scores import SCORES_FILE

# The settings that alone make a variant of the paper's ablation.
_PAPER: Mapping[tuple[str, object], str] = {
    ("losses.alpha_ce", 0.0): "no-kl",
    ("losses.alpha_cos", 0.0): "no-cosine",
    ("losses.alpha_mlm", 0.0): "no-mlm",
    ("student.initialisation", "random"): "random-init",
}
AGAIN = "distilled again on each task"

Scores = Mapping[tuple[TaskName, int], float]


@dataclass(frozen=True)
class Variant:
    """A student, and a fine-tuning of it.

    Attributes:
        run: of `distill`.
        differs: settings that are not those of the report's student.
        glue: score by task and seed; empty where it was not fine-tuned.
        again: the fine-tuning was a second distillation.
    """

    run: Run
    differs: Mapping[str, object]
    glue: Scores
    again: bool = False

    @property
    def name(self) -> str:
        """Of the run folder."""
        return f"{self.run.name}, {AGAIN}" if self.again else self.run.name

    @property
    def paper(self) -> float | None:
        """The change of the GLUE mean that the paper found for the same difference."""
        return PAPER.get(_PAPER.get(next(iter(self.differs.items())), "")) if len(self.differs) == 1 else None


def variants_section(runs: Runs) -> Markup:
    """The students of a report; nothing where there is only one, fine-tuned in one way."""
    found = variants(runs)
    if len(found) < 2:
        return Markup("")
    return markup(
        from_rich(variants_table(found)),
        paragraph(
            "Pseudo-perplexity and agreement (the share of masks at which student and teacher have the same best "
            "token) at the masks of held-out examples. GLUE: dev split, times 100, mean of the seeds; a change is "
            "taken over the tasks and seeds that both have, with the standard error that follows from the spread "
            "between seeds. The change in the paper is that of the mean of nine tasks."
        ),
    )


def variants(runs: Runs) -> list[Variant]:
    """The student of the report, then all others with the same teacher and examples, each with its fine-tunings."""
    subject = runs.subject
    if subject is None or subject.job != "distill":
        return []
    read = {name: entry for name, entry in subject.inputs.items() if name in ("teacher", "shards")}
    students = [run for run in runs.of("distill") if all(run.inputs.get(name) == entry for name, entry in read.items())]
    tuned = [(run, runs.input_of(run, "model")) for run in runs.of("evaluate_glue")]
    found = []
    for student in students:
        differs = _differences(student, subject)
        own = [run for run, model in tuned if model is student]
        plain = [by_task_and_seed(run.values(SCORES_FILE)) for run in own if not run.config.get("distillation")]
        again = [by_task_and_seed(run.values(SCORES_FILE)) for run in own if run.config.get("distillation")]
        found += [Variant(student, differs, scores) for scores in plain[:1] or [{}]]
        found += [Variant(student, differs, scores, again=True) for scores in again[:1]]
    return found


def variants_table(found: Sequence[Variant]) -> Table:
    """A row for each; changes are against the first, the report's student."""
    tasks = list(dict.fromkeys(task for variant in found for task, _ in variant.glue))
    table = Table(title="students with one thing changed each, beside the paper's table 4")
    headings = (
        "student",
        "differs in",
        "pseudo-perplexity",
        "agreement",
        "change",
        *tasks,
        "GLUE mean",
        "change",
        "paper",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    base, base_scores = found[0], last_scores(found[0].run.uri)
    noise = _noise([variant.glue for variant in found])
    for variant in found:
        scores = last_scores(variant.run.uri)
        means = {task: _mean(variant.glue, task) for task in tasks}
        own = variant.run is not base.run
        cells = [
            variant.name,
            ", ".join(f"{key} {shown(key, value)}" for key, value in variant.differs.items()),
            f"{math.exp(scores['mlm']):.1f}",
            f"{100 * scores['agreement']:.1f}",
            f"{100 * (scores['agreement'] - base_scores['agreement']):+.1f}" if own else "",
            *("" if mean is None else f"{100 * mean:.1f}" for mean in means.values()),
            _whole_mean(list(means.values())),
            _change(variant.glue, base.glue, noise) if variant is not base else "",
            "" if variant.paper is None else f"{variant.paper:+.2f}",
        ]
        table.add_row(*cells)
    return table


def _differences(run: Run, subject: Run) -> dict[str, object]:
    """The settings of a run that its subject has otherwise."""
    ours, theirs = (dict(flat(each.config)) for each in (run, subject))
    keys = dict.fromkeys([*ours, *theirs])
    return {key: ours.get(key) for key in keys if ours.get(key) != theirs.get(key)}


def _mean(scores: Scores, task: TaskName) -> float | None:
    values = [value for (name, _), value in scores.items() if name == task]
    return statistics.fmean(values) if values else None


def _whole_mean(means: Sequence[float | None]) -> str:
    known = [mean for mean in means if mean is not None]
    return f"{100 * statistics.fmean(known):.1f}" if known and len(known) == len(means) else ""


def _change(scores: Scores, base: Scores, noise: Mapping[TaskName, float]) -> str:
    """Of the mean over the tasks, with its standard error; nothing without a task and seed in common."""
    by_task: dict[TaskName, list[float]] = {}
    for key in scores.keys() & base.keys():
        by_task.setdefault(key[0], []).append(scores[key] - base[key])
    if not by_task:
        return ""
    change = statistics.fmean(map(statistics.fmean, by_task.values()))
    # Seeds are drawn for both models.
    variance = sum(2 * noise.get(task, 0.0) / len(values) for task, values in by_task.items()) / len(by_task) ** 2
    return f"{100 * change:+.1f} ± {100 * math.sqrt(variance):.1f}"


def _noise(found: Sequence[Scores]) -> dict[TaskName, float]:
    """The variance between seeds for each task, pooled over the models that have several."""
    sums: dict[TaskName, list[tuple[float, int]]] = {}
    for scores in found:
        for task in {task for task, _ in scores}:
            values = [value for (name, _), value in scores.items() if name == task]
            if len(values) > 1:
                sums.setdefault(task, []).append((statistics.variance(values) * (len(values) - 1), len(values) - 1))
    return {task: sum(part for part, _ in parts) / sum(count for _, count in parts) for task, parts in sums.items()}
