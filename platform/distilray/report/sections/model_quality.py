"""Model quality and bias: fill-mask, GLUE, the search of its settings, bias."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from distilray.evaluation.bias.bias_tables import bias_tables
from distilray.evaluation.glue.table import glue_table
from distilray.report.blocks import from_rich, heading, join, listing, paragraph, picture, side_by_side, table
from distilray.report.figures import NOTHING, counted, flat, label, shown
from distilray.report.runs import STUDENT, TEACHER, Run, Runs, Values

TRIALS_FILE, PLOT_FILE = "trials.csv", "search.svg"  # of jobs.search_glue
_INTERVALS = "intervals"
_AGREEMENT = {"agreement": "same best token as the teacher"}
_COSTS = ("parameters", "megabytes", "latency_ms", "latency_p95_ms")  # after all scores
_BEST_TRIALS = 10  # shown of each task


def fill_mask_section(runs: Runs) -> Markup:
    """Return the scores of teacher and student at the masks of held-out text."""
    return join(*[_fill_mask(run, run.scores()) for run in runs.of("evaluate_fill_mask")])


def glue_section(runs: Runs) -> Markup:
    """Return the scores on the dev split with those of the card and the paper."""
    scored = {run: run.scores() for run in runs.of("evaluate_glue")}
    return join(*[_glue(runs, run, scored) for run in scored])


def tuning_section(runs: Runs) -> Markup:
    """Return the trials of a search, and its plot."""
    return join(*map(_search, runs.of("search_glue")))


def bias_section(runs: Runs) -> Markup:
    """Return the associations of the models with groups of people."""
    return join(
        *[
            join(heading(run.name), *map(from_rich, bias_tables(scores)), listing(scores.get("limits", [])))
            for run, scores in [(run, run.scores()) for run in runs.of("evaluate_bias")]
        ]
    )


def glue_model(runs: Runs, run: Run, scores: Values) -> str | None:
    """Return which model a GLUE run has fine-tuned: student, teacher, or None if unknown."""
    subject = runs.subject
    if subject is not None and scores.get("model_hash") == subject.weights.get("sha256"):
        return STUDENT if subject.job == "distill" else TEACHER
    source = runs.input_of(run, "model")
    return {"distill": STUDENT, "train_teacher": TEACHER}.get(source.job) if source else None


def _fill_mask(run: Run, scores: Values) -> Markup:
    bounds: Values = scores.get(_INTERVALS, {})
    models = {name: dict(flat(found)) for name, found in scores.items() if name != _INTERVALS and _is_model(found)}
    facts = {name: value for name, value in scores.items() if name not in (_INTERVALS, *models)}
    plain = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    nested = dict(flat({name: value for name, value in facts.items() if isinstance(value, Mapping)}))
    agreement = [[_AGREEMENT[key], shown(key, bounds[key])] for key in _AGREEMENT if key in bounds]
    return join(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        _model_table(models, bounds),
        side_by_side(
            "tables",
            table(
                "Evaluated",
                ["", ""],
                [[_AGREEMENT.get(key, label(key)), shown(key, value)] for key, value in {**plain, **nested}.items()],
            ),
            table(f"{bounds.get('level', 0):.0%} interval", ["", ""], agreement),
        ),
    )


def _model_table(models: Mapping[str, Mapping[str, object]], bounds: Values) -> Markup:
    """Return the scores of each model; of two their ratio, and the interval of the difference or of a single model."""
    keys = list(dict.fromkeys(key for scores in models.values() for key in scores))
    keys = [*(key for key in keys if key not in _COSTS), *(key for key in _COSTS if key in keys)]
    head, are_two = ["", *models], len(models) == 2
    bounded = "difference" if are_two else next(iter(models)) if len(models) == 1 else ""
    if are_two:
        head.append(" / ".join(reversed(list(models))))
    if bounded in bounds:
        head.append(f"{'difference' if are_two else 'its'} {bounds['level']:.0%} interval")
    rows = []
    for key in keys:
        cells = [scores.get(key) for scores in models.values()]
        row = [label(key), *[shown(key, cell) for cell in cells]]
        row += [_ratio(*cells)] if are_two else []
        row += [shown(key, bounds[bounded].get(key))] if bounded in bounds else []
        rows.append(row)
    return table("Fill-mask scores", head, rows)


def _is_model(scores: object) -> bool:
    return isinstance(scores, Mapping) and "parameters" in scores


def _ratio(first: object, second: object) -> str:
    if not isinstance(first, int | float) or not isinstance(second, int | float) or not first:
        return NOTHING
    return f"{second / first:.1%}"


def _glue(runs: Runs, run: Run, scored: Mapping[Run, Values]) -> Markup:
    scores = scored[run]
    model, named = glue_model(runs, run, scores), run.inputs.get(TEACHER, {}).get("content_hash")
    others = {other: found for other, found in scored.items() if other is not run}
    teachers = [found for other, found in others.items() if other.content_hash == named]
    if named is None and model == STUDENT:
        teachers = [found for other, found in others.items() if glue_model(runs, other, found) == TEACHER]
    seeds = len({row["seed"] for row in scores["rows"]})
    return join(
        heading(f"{run.name}: {model or 'a model that this report does not hold'}"),
        paragraph(
            f"Scores on the dev split, times 100; the best evaluation of each fine-tuning counts. "
            f"{counted(seeds, 'seed')}. The columns of the literature are dev scores too, although a "
            "card may call them test scores."
        ),
        from_rich(glue_table(scores, teachers[0] if teachers else None)),
    )


def _search(run: Run) -> Markup:
    trials = run.table(TRIALS_FILE)
    tasks = list(dict.fromkeys(trial["task"] for trial in trials))
    winners = [
        [task, one["metric"]]
        + [shown("score", score) for score in (one["winner"]["score"], one["fresh"]["median"], one["fresh"]["spread"])]
        for task, one in run.scores().get("search", {}).items()
    ]
    return join(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        _plot(run, len(trials), tasks) if run.has(PLOT_FILE) else "",
        *[_trials(task, [trial for trial in trials if trial["task"] == task]) for task in tasks],
        table("Winners with fresh seeds", ["task", "metric", "in the search", "fresh: median", "spread"], winners),
    )


def _plot(run: Run, trials: int, tasks: Sequence[str]) -> Markup:
    data = base64.b64encode(run.text(PLOT_FILE).encode()).decode()
    alt = f"Dev score of {trials} trials by epoch, a panel for each of {', '.join(tasks)}"
    return picture("Dev score of every trial by epoch; the winner in red", alt, f"data:image/svg+xml;base64,{data}")


def _trials(task: str, trials: Sequence[Mapping[str, str]]) -> Markup:
    keys = [key for key in trials[0] if any(trial[key] for trial in trials)]
    head = ["trial", *[key for key in keys if key not in ("task", "trial", "metric")]]
    scored = sorted((trial for trial in trials if trial["best_score"]), key=lambda trial: -float(trial["best_score"]))
    failed = [trial for trial in trials if trial["status"] == "failed" and trial not in scored]
    statuses = sorted(Counter(trial["status"] for trial in trials).items())
    counts = ", ".join(f"{count} {status}" for status, count in statuses)
    rows = [[_cell(key, trial.get(key) or "") for key in head] for trial in [*scored[:_BEST_TRIALS], *failed]]
    caption = f"{task}: the best of {len(trials)} trials by {trials[0]['metric']} on dev ({counts})"
    return table(caption, [label(key) for key in head], rows)


def _cell(key: str, text: str) -> str:
    try:
        return f"{float(text):.4f}" if key == "best_score" else f"{float(text):.4g}" if "." in text else text
    except ValueError:
        return text
