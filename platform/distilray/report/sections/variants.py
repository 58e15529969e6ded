"""Section on variants of the student, trained with different settings, and their scores.

Variants without one of the losses repeat the ablation in the DistilBERT paper (table 4), whose results are shown too.
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
from distilray.report.formatting import flatten, format_value
from distilray.report.runs import Run, Runs, Values
from distilray.runtime import storage
from distilray.runtime.metrics import read_metrics
from distilray.training.reporter import HELDOUT_FILE

# Change of the GLUE macro score in the DistilBERT paper (table 4) if only this setting is changed.
PAPER: Mapping[tuple[str, object], float] = {
    ("losses.alpha_ce", 0.0): -2.96,
    ("losses.alpha_cos", 0.0): -1.46,
    ("losses.alpha_mlm", 0.0): -0.31,
    ("student.initialization", "random"): -3.69,
}
_TASK_DISTILLED = "distilled again on each task"

Scores = Mapping[tuple[TaskName, int], float]


@dataclass(frozen=True)
class Variant:
    """A student with its GLUE scores.

    Attributes:
        run: distillation run.
        changes: settings that differ from those of the report's student.
        glue: score by task and seed; empty without a GLUE run.
        is_task_distilled: fine-tuning used a second distillation from a fine-tuned teacher.
    """

    run: Run
    changes: Mapping[str, object]
    glue: Scores
    is_task_distilled: bool = False

    @property
    def name(self) -> str:
        return f"{self.run.name}, {_TASK_DISTILLED}" if self.is_task_distilled else self.run.name

    @property
    def paper(self) -> float | None:
        """Change of the GLUE mean in the paper for the same change of settings."""
        # Values may be lists, such as the teacher's layers, and cannot be looked up in a dict.
        return next((change for (key, value), change in PAPER.items() if self.changes == {key: value}), None)


def variants_section(runs: Runs) -> Markup:
    """Compare the students of a report; empty without at least two variants."""
    variants = find_variants(runs)
    if len(variants) < 2:
        return Markup("")
    return join(
        from_rich(variants_table(variants)),
        paragraph(
            "Pseudo-perplexity and agreement (the share of masks for which student and teacher predict the same token) "
            "are measured on held-out examples. GLUE: scores on the dev split, times 100, mean over the seeds. Changes "
            "are computed from the tasks and seeds that both students have, and their standard errors from the "
            "variance between seeds. The changes in the paper are those of the mean of nine tasks."
        ),
    )


def find_variants(runs: Runs) -> list[Variant]:
    """Return the report's student and then all others with the same teacher and examples, with their GLUE scores."""
    subject = runs.subject
    if subject is None or subject.job != "distill":
        return []
    shared = {name: entry for name, entry in subject.inputs.items() if name in ("teacher", "shards")}
    students = [
        run for run in runs.by_job("distill") if all(run.inputs.get(name) == entry for name, entry in shared.items())
    ]
    glue_runs = [(run, runs.input_of(run, "model")) for run in runs.by_job("evaluate_glue")]
    variants = []
    for student in students:
        changes = _changes(student, subject)
        own = [run for run, model in glue_runs if model is student]
        plain = [_by_task_and_seed(run.read_scores()) for run in own if not run.config.get("distillation")]
        distilled = [_by_task_and_seed(run.read_scores()) for run in own if run.config.get("distillation")]
        variants += [Variant(student, changes, scores) for scores in plain[:1] or [{}]]
        variants += [Variant(student, changes, scores, is_task_distilled=True) for scores in distilled[:1]]
    return variants


def variants_table(variants: Sequence[Variant]) -> Table:
    """Return a table with one row per variant, compared with the first one on the GLUE tasks that all of them have."""
    scored = [variant.glue for variant in variants if variant.glue]
    tasks = [task for task in _tasks(variants[0].glue) if all(task in _tasks(scores) for scores in scored)]
    table = Table(title="variants of the student, and the paper's table 4")
    heldout = ("pseudo-perplexity", "change", "agreement", "change")
    for heading in ("student", "differs in", *heldout, *tasks, "GLUE mean", "change", "paper"):
        table.add_column(heading, justify="left" if heading in ("student", "differs in") else "right")
    variances, base = _seed_variances(scored), variants[0]
    for variant in variants:
        changes = ", ".join(f"{key} {format_value(key, value)}" for key, value in variant.changes.items())
        paper = "" if variant.paper is None else f"{variant.paper:+.2f}"
        table.add_row(variant.name, changes, *_heldout(variant, base), *_glue(variant, base, tasks, variances), paper)
    return table


def final_heldout_scores(run_dir: str) -> Mapping[str, float]:
    """Return the held-out scores at the end of a run.

    Raises:
        InputError: the run has no held-out scores.
    """
    rows = read_metrics(storage.join(run_dir, HELDOUT_FILE))
    if not rows:
        raise InputError(f"{run_dir}: no {HELDOUT_FILE}; encode the corpus with a heldout_fraction above 0")
    return rows[-1]


def _heldout(variant: Variant, base: Variant) -> list[str]:
    """Return the final pseudo-perplexity and agreement, each followed by its change."""
    scores, base_scores = final_heldout_scores(variant.run.uri), final_heldout_scores(base.run.uri)
    values = [f"{math.exp(scores['mlm']):.1f}", f"{100 * scores['agreement']:.1f}"]
    changes = ["", ""]
    if variant.run is not base.run:
        perplexity = math.exp(scores["mlm"] - base_scores["mlm"]) - 1
        agreement = scores["agreement"] - base_scores["agreement"]
        changes = [f"{perplexity:+.1%}", f"{100 * agreement:+.1f}"]
    return [values[0], changes[0], values[1], changes[1]]


def _glue(variant: Variant, base: Variant, tasks: Sequence[TaskName], variances: Mapping[TaskName, float]) -> list[str]:
    """Return the mean score of each task over the seeds, the mean over the tasks, and its change."""
    if not variant.glue or not tasks:
        return ["" for _ in (*tasks, "mean", "change")]
    means = [statistics.fmean(value for (name, _), value in variant.glue.items() if name == task) for task in tasks]
    change = "" if variant is base else _mean_change(variant.glue, base.glue, tasks, variances)
    return [*(f"{100 * mean:.1f}" for mean in means), f"{100 * statistics.fmean(means):.1f}", change]


def _changes(run: Run, subject: Run) -> dict[str, object]:
    """Return the settings of a run that differ from the subject's."""
    settings, subject_settings = (dict(flatten(student.config)) for student in (run, subject))
    keys = dict.fromkeys([*settings, *subject_settings])
    return {key: settings.get(key) for key in keys if settings.get(key) != subject_settings.get(key)}


def _by_task_and_seed(scores: Values) -> dict[tuple[TaskName, int], float]:
    return {(row["task"], row["seed"]): row["value"] for row in scores["rows"] if row["metric"] == SCORE}


def _tasks(scores: Scores) -> list[TaskName]:
    return list(dict.fromkeys(task for task, _ in scores))


def _mean_change(scores: Scores, base: Scores, tasks: Sequence[TaskName], variances: Mapping[TaskName, float]) -> str:
    """Return the change of the mean over the tasks with its standard error; empty if a task has no common seed."""
    changes = [[scores[key] - base[key] for key in scores.keys() & base.keys() if key[0] == task] for task in tasks]
    if not all(changes):
        return ""
    change = statistics.fmean(map(statistics.fmean, changes))
    # Factor 2, because the seeds of the two models are independent.
    squares = [2 * variances.get(task, 0.0) / len(by_seed) for task, by_seed in zip(tasks, changes, strict=True)]
    return f"{100 * change:+.1f} ± {100 * math.sqrt(sum(squares)) / len(tasks):.1f}"


def _seed_variances(scored: Sequence[Scores]) -> dict[TaskName, float]:
    """Return the variance between seeds for each task, pooled over the models with several seeds."""
    sums: dict[TaskName, list[tuple[float, int]]] = {}  # sum of squares, degrees of freedom
    for scores in scored:
        for task in _tasks(scores):
            values = [value for (name, _), value in scores.items() if name == task]
            if len(values) > 1:
                sums.setdefault(task, []).append((statistics.variance(values) * (len(values) - 1), len(values) - 1))
    return {
        task: sum(squares for squares, _ in models) / sum(dof for _, dof in models) for task, models in sums.items()
    }
