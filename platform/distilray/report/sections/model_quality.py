"""Sections on model quality: fill-mask, GLUE, hyperparameter search, bias."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from distilray.evaluation.bias.bias_tables import bias_tables
from distilray.evaluation.fill_mask.sentences import SENTENCES_FILE
from distilray.evaluation.glue.comparison import task_score
from distilray.evaluation.glue.table import glue_table
from distilray.report.blocks import (
    figure,
    filled_sentences,
    from_rich,
    heading,
    join,
    listing,
    paragraph,
    picture,
    side_by_side,
    table,
)
from distilray.report.charts import Bar, comparison_chart
from distilray.report.formatting import NOTHING, flatten, format_value, label, pluralize
from distilray.report.runs import STUDENT, TEACHER, Run, Runs, Values

TRIALS_FILE, PLOT_FILE = "trials.csv", "search.svg"  # of jobs.search_glue
_INTERVALS = "intervals"
_COSTS = ("parameters", "megabytes", "latency_ms", "latency_p95_ms")  # shown after the scores
_BEST_TRIALS = 10  # trials shown per task
_CHARTED = ("hit@1", "hit@5", "hit@10", "mrr")
# Title, score and factor; 50 is no preference.
_BIAS_SCORES: Mapping[str, tuple[str, str, float]] = {
    "crows_pairs": ("CrowS-Pairs: pairs whose more stereotyping sentence is more likely", "share", 100),
    "stereoset": ("StereoSet: stereotype score (SS)", "ss", 1),
}


def answers_section(runs: Runs) -> Markup:
    """Return held-out sentences with the answers of teacher and student; empty for runs of earlier versions."""
    by_run = [(run, run.read_json_lines(SENTENCES_FILE)) for run in runs.by_job("evaluate_fill_mask")]
    blocks = [join(heading(runs.title(run)), filled_sentences(rows)) for run, rows in by_run if rows]
    about = (
        "Held-out sentences with one masked word, and the most probable words of each model; the true word is marked."
    )
    return join(paragraph(about), *blocks) if blocks else Markup("")


def fill_mask_section(runs: Runs) -> Markup:
    """Return the fill-mask scores of teacher and student."""
    return join(*[_fill_mask(runs, run, run.read_scores()) for run in runs.by_job("evaluate_fill_mask")])


def glue_section(runs: Runs) -> Markup:
    """Return the scores on the dev split next to published ones."""
    scored = {run: run.read_scores() for run in runs.by_job("evaluate_glue")}
    return join(_glue_chart(runs, scored), *[_glue(runs, run, scored) for run in scored])


def tuning_section(runs: Runs) -> Markup:
    """Return the best trials of each search, and its plot."""
    return join(*[_search(runs, run) for run in runs.by_job("search_glue")])


def bias_section(runs: Runs) -> Markup:
    """Return the results of the bias evaluation."""
    return join(
        *[
            join(
                heading(runs.title(run)),
                side_by_side("figures", *_bias_charts(scores)),
                *map(from_rich, bias_tables(scores)),
                listing(scores.get("limits", [])),
            )
            for run, scores in [(run, run.read_scores()) for run in runs.by_job("evaluate_bias")]
        ]
    )


def glue_model(runs: Runs, run: Run, scores: Values) -> str | None:
    """Return the model that a GLUE run fine-tuned: student, teacher, or None if unknown."""
    subject = runs.subject
    if subject is not None and scores.get("model_hash") == subject.weights.get("sha256"):
        return STUDENT if subject.job == "distill" else TEACHER
    source = runs.input_of(run, "model")
    return {"distill": STUDENT, "train_teacher": TEACHER}.get(source.job) if source else None


def _fill_mask(runs: Runs, run: Run, scores: Values) -> Markup:
    bounds: Values = scores.get(_INTERVALS, {})
    models = {
        name: dict(flatten(values)) for name, values in scores.items() if name != _INTERVALS and _is_model(values)
    }
    data = flatten({name: value for name, value in scores.items() if name not in (_INTERVALS, *models)})
    interval = f"{bounds.get('level', 0):.0%} interval"
    rows = [[label(key), format_value(key, value), format_value(key, bounds.get(key))] for key, value in data]
    return join(
        heading(runs.title(run)),
        paragraph("Result: ", run.record["summary"], "."),
        side_by_side("tables", _fill_mask_chart(models, bounds), _model_table(models, bounds)),
        table("Evaluation data", ["", "value", interval], rows),
    )


def _fill_mask_chart(models: Mapping[str, Values], bounds: Values) -> Markup:
    groups = {
        label(key): {
            name: Bar(values[key], format_value(key, values[key]), bounds.get(name, {}).get(key))
            for name, values in models.items()
            if isinstance(values.get(key), float)
        }
        for key in _CHARTED
    }
    caption = "Fill-mask scores with their intervals" if bounds else "Fill-mask scores"
    return figure(caption, comparison_chart(caption, groups, x_label="score"))


def _model_table(models: Mapping[str, Mapping[str, object]], bounds: Values) -> Markup:
    """Return the scores of each model; for two models, also their ratio and the interval of their difference."""
    keys = list(dict.fromkeys(key for scores in models.values() for key in scores))
    keys = [*(key for key in keys if key not in _COSTS), *(key for key in _COSTS if key in keys)]
    head, is_pair = ["", *models], len(models) == 2
    interval_key = "difference" if is_pair else next(iter(models)) if len(models) == 1 else ""
    if is_pair:
        head.append(" / ".join(reversed(list(models))))
    if interval_key in bounds:
        head.append(f"{bounds['level']:.0%} interval{' of the difference' if is_pair else ''}")
    rows = []
    for key in keys:
        cells = [scores.get(key) for scores in models.values()]
        row = [label(key), *[format_value(key, cell) for cell in cells]]
        row += [_ratio(*cells)] if is_pair else []
        row += [format_value(key, bounds[interval_key].get(key))] if interval_key in bounds else []
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
    model, teacher_hash = glue_model(runs, run, scores), run.inputs.get(TEACHER, {}).get("content_hash")
    others = {other: values for other, values in scored.items() if other is not run}
    teachers = [values for other, values in others.items() if other.content_hash == teacher_hash]
    if teacher_hash is None and model == STUDENT:
        teachers = [values for other, values in others.items() if glue_model(runs, other, values) == TEACHER]
    seeds = len({row["seed"] for row in scores["rows"]})
    return join(
        heading(f"{run.name}: {model or 'a model that is not in this report'}"),
        paragraph(
            f"Scores on the dev split, times 100, with {pluralize(seeds, 'seed')}; each fine-tuning run is scored by "
            "its best evaluation. The published scores are dev scores too, although some cards call them test scores."
        ),
        from_rich(glue_table(scores, teachers[0] if teachers else None)),
    )


def _glue_chart(runs: Runs, scored: Mapping[Run, Values]) -> Markup:
    """Return a chart of the score of each task and run, the teacher first, with the majority baselines."""
    names = [glue_model(runs, run, scores) for run, scores in scored.items()]
    models = {
        run: model if model and names.count(model) == 1 else run.name for run, model in zip(scored, names, strict=True)
    }
    groups: dict[str, dict[str, Bar]] = {}
    baselines = {}
    for run in sorted(scored, key=lambda run: models[run] != TEACHER):
        for task in scored[run]["summary"]:
            own = task_score(scored[run], task)
            interval = None if own.interval is None else [100 * end for end in own.interval]
            groups.setdefault(task, {})[models[run]] = Bar(100 * own.score, f"{100 * own.score:.1f}", interval)
            baselines[task] = 100 * own.majority
    caption = "GLUE, dev split, times 100"
    chart = comparison_chart(caption, groups, x_label="score", baselines=baselines, baseline_label="majority baseline")
    return figure(caption, chart)


def _bias_charts(scores: Values) -> list[Markup]:
    """Return a chart for each set of sentence pairs, by category."""
    charts = []
    for key, (title, value_key, scale) in _BIAS_SCORES.items():
        by_model: Values = scores.get(key, {}).get("scores", {})
        interval_key = "interval" if value_key == "share" else f"{value_key}_interval"
        groups: dict[str, dict[str, Bar]] = {}
        for name in scores["models"] if by_model else []:
            for part, cell in by_model[name].items():
                if cell.get(value_key) is not None:
                    value, ends = scale * cell[value_key], cell.get(interval_key)
                    interval = None if ends is None else [scale * end for end in ends]
                    groups.setdefault(part, {})[name] = Bar(value, f"{value:.1f}", interval)
        baselines = dict.fromkeys(groups, 50.0)
        chart = comparison_chart(title, groups, x_label="%", baselines=baselines, baseline_label="no preference")
        charts.append(figure(title, chart))
    return charts


def _search(runs: Runs, run: Run) -> Markup:
    trials = run.read_csv(TRIALS_FILE)
    tasks = list(dict.fromkeys(trial["task"] for trial in trials))
    winners = [
        [task, result["metric"]]
        + [
            format_value("score", score)
            for score in (result["winner"]["score"], result["fresh"]["median"], result["fresh"]["spread"])
        ]
        for task, result in run.read_scores().get("search", {}).items()
    ]
    return join(
        heading(runs.title(run)),
        paragraph("Result: ", run.record["summary"], "."),
        _plot(run, len(trials), tasks) if run.has_file(PLOT_FILE) else "",
        *[_trials(task, [trial for trial in trials if trial["task"] == task]) for task in tasks],
        table("Winners with new seeds", ["task", "metric", "in the search", "new seeds: median", "spread"], winners),
    )


def _plot(run: Run, trials: int, tasks: Sequence[str]) -> Markup:
    data = base64.b64encode(run.read_text(PLOT_FILE).encode()).decode()
    alt = f"Dev score of {trials} trials by epoch, with a panel for each of {', '.join(tasks)}"
    return picture("Dev score of each trial by epoch; the winner in red", alt, f"data:image/svg+xml;base64,{data}")


def _trials(task: str, trials: Sequence[Mapping[str, str]]) -> Markup:
    keys = [key for key in trials[0] if any(trial[key] for trial in trials)]
    columns = ["trial", *[key for key in keys if key not in ("task", "trial", "metric")]]
    scored = sorted((trial for trial in trials if trial["best_score"]), key=lambda trial: -float(trial["best_score"]))
    failed = [trial for trial in trials if trial["status"] == "failed" and trial not in scored]
    statuses = sorted(Counter(trial["status"] for trial in trials).items())
    counts = ", ".join(f"{count} {status}" for status, count in statuses)
    rows = [[_cell(key, trial.get(key) or "") for key in columns] for trial in [*scored[:_BEST_TRIALS], *failed]]
    caption = f"{task}: the best of {len(trials)} trials by {trials[0]['metric']} on dev ({counts})"
    return table(caption, [label(key) for key in columns], rows)


def _cell(key: str, text: str) -> str:
    try:
        return f"{float(text):.4f}" if key == "best_score" else f"{float(text):.4g}" if "." in text else text
    except ValueError:
        return text
