"""The few figures that stand above all others."""

from distilray.config.glue import GLUE_TASKS
from distilray.evaluation.glue.table import macro
from distilray.report.figures import size, time
from distilray.report.model_index import fill_mask_runs
from distilray.report.page import Markup, tiles
from distilray.report.runs import Runs
from distilray.report.sections.claim import compared_glue
from distilray.report.sections.scores import SCORES_FILE, STUDENT, TEACHER, glue_model

Fact = tuple[str, str, str]


def key_figures(runs: Runs) -> Markup:
    """Size, knowledge and speed of the student beside its teacher, as far as the runs say."""
    return tiles([*_size(runs), *_fill_mask(runs), *_glue(runs)])


def _size(runs: Runs) -> list[Fact]:
    student = runs.subject
    if student is None or "parameters" not in student.counts:
        return []
    own, teacher = student.counts["parameters"], student.counts.get("teacher_parameters")
    beside = f"{own / teacher:.0%} of the teacher's {teacher / 1e6:,.1f} M" if teacher else ""
    facts = [("Parameters of the student", f"{own / 1e6:,.1f} M", beside)]
    if student.weights:
        facts.append(("Weights of the student", size(student.weights["bytes"]), "model.safetensors"))
    facts.append(("Distillation", time(student.record["wall_s"]), f"{student.counts['steps']:,} steps"))
    return facts


def _fill_mask(runs: Runs) -> list[Fact]:
    facts: list[Fact] = []
    for _, name, scores in fill_mask_runs(runs)[:1]:
        teacher, student = scores.get(TEACHER), scores[name]
        if name == TEACHER:
            continue
        own, other = student.get("hit@10"), (teacher or {}).get("hit@10")
        if own is not None:
            facts.append(("Fill-mask, hit@10", f"{own:.3f}", f"{own / other:.1%} of the teacher's" if other else ""))
        if teacher and student.get("latency_ms") and teacher.get("latency_ms"):
            faster = teacher["latency_ms"] / student["latency_ms"]
            told = f"{student['latency_ms']:.1f} ms a text, CPU, batch 1"
            facts.append(("Speed beside the teacher", f"{faster:.2f} x", told))
    return facts


def _glue(runs: Runs) -> list[Fact]:
    facts: list[Fact] = []
    for run in runs.of("evaluate_glue"):
        scores = run.values(SCORES_FILE)
        mean, count = macro(scores["summary"])
        if glue_model(runs, run, scores) == STUDENT and count:
            facts.append(("GLUE macro score, dev", f"{100 * mean:.1f}", f"{count} of {len(GLUE_TASKS)} tasks"))
            break
    compared = compared_glue(runs)
    if compared and (kept := compared[-1].mean) and kept.above_chance is not None:
        interval = kept.above_chance_interval
        bounds = [f"{interval[0]:.1%} to {interval[1]:.1%}"] if interval else []
        remark = "; ".join([*bounds, f"mean of {', '.join(compared[-1].counted)}"])
        facts.append(("GLUE above chance, kept of the teacher's", f"{kept.above_chance:.1%}", remark))
    return facts
