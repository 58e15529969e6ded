"""What the models know and what they inherited: fill-mask, GLUE, the search of its settings, bias."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from distilray.evaluation.bias.table import bias_tables
from distilray.evaluation.glue.table import glue_table
from distilray.report.figures import NOTHING, counted, flat, from_rich, label, shown
from distilray.report.page import Markup, beside, heading, listing, markup, paragraph, picture, table
from distilray.report.runs import Run, Runs

SCORES_FILE = "scores.json"
TRIALS_FILE, PLOT_FILE = "trials.csv", "search.svg"  # of jobs.search_glue
TEACHER, STUDENT = "teacher", "student"
_INTERVALS = "intervals"
_AGREEMENT = {"agreement": "same best token as the teacher"}
_COSTS = ("parameters", "megabytes", "latency_ms", "latency_p95_ms")  # behind all scores
_BEST_TRIALS = 10  # shown of each task

Values = Mapping[str, Any]


def fill_mask_section(runs: Runs) -> Markup:
    """Teacher beside student at the masks of held-out text."""
    return markup(*[_fill_mask(run, run.values(SCORES_FILE)) for run in runs.of("evaluate_fill_mask")])


def glue_section(runs: Runs) -> Markup:
    """The scores on the dev split beside the card's and the paper's."""
    found = {run: run.values(SCORES_FILE) for run in runs.of("evaluate_glue")}
    return markup(*[_glue(runs, run, scores, found) for run, scores in found.items()])


def tuning_section(runs: Runs) -> Markup:
    """The trials of a search, and its plot."""
    return markup(*[_search(run) for run in runs.of("search_glue")])


def bias_section(runs: Runs) -> Markup:
    """What the models say of groups of people."""
    parts = []
    for run in runs.of("evaluate_bias"):
        scores = run.values(SCORES_FILE)
        limits = listing(scores.get("limits", []))
        parts.append(markup(heading(run.name), *map(from_rich, bias_tables(scores)), limits))
    return markup(*parts)


def glue_model(runs: Runs, run: Run, scores: Values) -> str | None:
    """What a GLUE run has fine-tuned: student, teacher, or None where that is not known."""
    subject = runs.subject
    if subject is not None and scores.get("model_hash") == subject.weights.get("sha256"):
        return STUDENT if subject.job == "distill" else TEACHER
    made = runs.input_of(run, "model")
    return {"distill": STUDENT, "train_teacher": TEACHER}.get(made.job) if made else None


def _fill_mask(run: Run, scores: Values) -> Markup:
    bounds: Values = scores.get(_INTERVALS, {})
    models = [name for name, found in scores.items() if name != _INTERVALS and _has_numbers(found)]
    both = models[:2] if len(models) == 2 else []
    found = list(dict.fromkeys(key for name in models for key, _ in flat(scores[name])))
    keys = [*(key for key in found if key not in _COSTS), *(key for key in _COSTS if key in found)]
    ratio = [f"{both[1]} / {both[0]}"] if both else []
    told_of = "difference" if both else models[0] if len(models) == 1 else ""
    behind = [f"{'difference' if both else 'its'} {bounds['level']:.0%} interval"] if told_of in bounds else []
    rows: list[list[object]] = []
    for key in keys:
        cells = [dict(flat(scores[name])).get(key) for name in models]
        row: list[object] = [label(key), *[shown(key, cell) for cell in cells]]
        row += [_ratio(*cells)] if both else []
        row += [shown(key, bounds[told_of].get(key))] if behind else []
        rows.append(row)
    named = {key: value for key, value in scores.items() if key != _INTERVALS and not isinstance(value, Mapping)}
    facts = [[_AGREEMENT.get(key, label(key)), shown(key, value)] for key, value in named.items()]
    other = [
        [label(name), shown(name, value)]
        for key, found in scores.items()
        if key not in (_INTERVALS, *models) and isinstance(found, Mapping)
        for name, value in flat({key: found})
    ]
    told = [[_AGREEMENT[key], shown(key, bounds[key])] for key in _AGREEMENT if key in bounds]
    return markup(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        table("Fill-mask scores", ["", *models, *ratio, *behind], rows),
        beside(
            table("Evaluated", ["", ""], [*facts, *other]),
            table(f"{bounds.get('level', 0):.0%} interval", ["", ""], told),
        ),
    )


def _has_numbers(found: object) -> bool:
    return isinstance(found, Mapping) and "parameters" in found


def _ratio(first: object, second: object) -> str:
    if not isinstance(first, int | float) or not isinstance(second, int | float) or not first:
        return NOTHING
    return f"{second / first:.1%}"


def _glue(runs: Runs, run: Run, scores: Values, found: Mapping[Run, Values]) -> Markup:
    model = glue_model(runs, run, scores)
    teachers = [each for other, each in found.items() if other is not run and glue_model(runs, other, each) == TEACHER]
    named = run.inputs.get(TEACHER, {}).get("content_hash")
    teacher = next((each for other, each in found.items() if other.content_hash == named), None)
    if named is None and model == STUDENT and teachers:
        teacher = teachers[0]
    seeds = len({row["seed"] for row in scores["rows"]})
    return markup(
        heading(f"{run.name}: {model or 'a model that this report does not hold'}"),
        paragraph(
            f"Scores on the dev split, times 100; the best evaluation of each fine-tuning counts. "
            f"{counted(seeds, 'seed')}. The columns of the literature are dev scores too, although a "
            "card may call them test scores."
        ),
        from_rich(glue_table(scores, teacher)),
    )


def _search(run: Run) -> Markup:
    trials = run.table(TRIALS_FILE)
    tasks = list(dict.fromkeys(trial["task"] for trial in trials))
    search: Values = run.values(SCORES_FILE).get("search", {})
    plot = Markup("")
    if run.has(PLOT_FILE):
        data = base64.b64encode(run.text(PLOT_FILE).encode()).decode()
        alt = f"Dev score of {len(trials)} trials by epoch, a panel for each of {', '.join(tasks)}"
        plot = picture("Dev score of every trial by epoch; the winner in red", alt, f"data:image/svg+xml;base64,{data}")
    return markup(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        plot,
        *[_trials(task, [trial for trial in trials if trial["task"] == task]) for task in tasks],
        table(
            "Winners with fresh seeds", ["task", "metric", "in the search", "fresh: median", "spread"], _fresh(search)
        ),
    )


def _trials(task: str, trials: Sequence[Mapping[str, str]]) -> Markup:
    said = [key for key in trials[0] if any(trial[key] for trial in trials)]
    head = ["trial", *[key for key in said if key not in ("task", "trial", "metric")]]
    scored = sorted((trial for trial in trials if trial["best_score"]), key=lambda trial: -float(trial["best_score"]))
    failed = [trial for trial in trials if trial["status"] == "failed" and trial not in scored]
    ended = {status: sum(trial["status"] == status for trial in trials) for status in {t["status"] for t in trials}}
    told = ", ".join(f"{count} {status}" for status, count in sorted(ended.items()))
    rows = [[_cell(key, trial.get(key) or "") for key in head] for trial in [*scored[:_BEST_TRIALS], *failed]]
    caption = f"{task}: the best of {len(trials)} trials by {trials[0]['metric']} on dev ({told})"
    return table(caption, [label(key) for key in head], rows)


def _cell(key: str, text: str) -> str:
    try:
        return f"{float(text):.4f}" if key == "best_score" else f"{float(text):.4g}" if "." in text else text
    except ValueError:
        return text


def _fresh(search: Values) -> list[list[object]]:
    return [
        [
            task,
            found["metric"],
            shown("score", found["winner"]["score"]),
            shown("score", found["fresh"]["median"]),
            shown("score", found["fresh"]["spread"]),
        ]
        for task, found in search.items()
    ]
