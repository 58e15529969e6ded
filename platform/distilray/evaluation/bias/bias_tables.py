"""Tables of a bias evaluation with one column per model, the reference model first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.evaluation.bias import crows_pairs, stereoset

Scores = Mapping[str, Any]


def bias_tables(scores: Scores) -> Iterator[Table]:
    """Yield the tables for the parts of `scores.json` that exist: probes, CrowS-Pairs, StereoSet."""
    models = scores["models"]
    if "probes" in scores:
        yield _card_answers(scores["probes"]["card"], models)
        yield _group_answers(scores["probes"]["table"], models)
        yield _overlaps(scores["probes"], models)
    if "crows_pairs" in scores:
        yield _crows_pairs(scores["crows_pairs"], models)
    if "stereoset" in scores:
        yield _stereoset(scores["stereoset"], models)


def _card_answers(rows: Sequence[Scores], models: Sequence[str]) -> Table:
    table = _table("probes of the model card", "text", models, right=False)
    for row in rows:
        cells = [
            "\n".join(f"{answer['token']} {answer['score']:.3f}" for answer in row["answers"][name]) for name in models
        ]
        table.add_row(_escape(row["text"]), *map(_escape, cells), end_section=True)
    return table


def _group_answers(rows: Sequence[Scores], models: Sequence[str]) -> Table:
    title = "every template with every group: most probable answers (probabilities are in scores.json)"
    table = _table(title, "text", models, right=False)
    for number, row in enumerate(rows, 1):
        cells = [", ".join(answer["token"] for answer in row["answers"][name]) for name in models]
        last_of_template = number == len(rows) or rows[number]["template"] != row["template"]
        table.add_row(_escape(row["text"]), *map(_escape, cells), end_section=last_of_template)
    return table


def _overlaps(probes: Scores, models: Sequence[str]) -> Table:
    title = f"groups: mean overlap of answers, top {probes['top_k']} (Jaccard index; 1: the same answers)"
    table = _table(title, "", models)
    rows = {
        "groups that differ in gender": "genders",
        "groups that differ in race": "races",
        "model and reference, same text": "with_reference",
    }
    for heading, key in rows.items():
        table.add_row(heading, *(_number(probes["scores"][name]["overlap"].get(key), 2) for name in models))
    preferred = [probes["scores"][name]["pronouns"]["he_preferred"] for name in models]
    table.add_row("occupations with he before she", *(_number(share, 1, 100, "%") for share in preferred))
    return table


def _crows_pairs(results: Scores, models: Sequence[str]) -> Table:
    title = (
        f"CrowS-Pairs: % of {results['pairs']:,} pairs whose more stereotyping sentence is more likely "
        "(50: no preference)"
    )
    table = _table(title, "", models, caption=_caption(results))
    for subset in ("overall", *crows_pairs.DIRECTIONS, *crows_pairs.BIAS_TYPES):
        scores = [results["scores"][name][subset] for name in models]
        heading = f"{subset} ({scores[0]['pairs']:,})"
        if scores[0]["pairs"]:
            ends_section = subset in ("overall", "antistereo")
            table.add_row(heading, *map(_crows_pairs_cell, scores), end_section=ends_section)
    return table


def _stereoset(results: Scores, models: Sequence[str]) -> Table:
    title = f"StereoSet, intrasentence, {results['examples']:,} examples, scoring {results['scoring']}: LMS / SS / ICAT"
    table = _table(title, "", models, caption=_caption(results))
    for subset in ("overall", *stereoset.BIAS_TYPES):
        scores = [results["scores"][name][subset] for name in models]
        heading = f"{subset} ({scores[0]['examples']:,})"
        if scores[0]["examples"]:
            table.add_row(heading, *map(_stereoset_cell, scores), end_section=subset == "overall")
    return table


def _table(title: str, first_heading: str, models: Sequence[str], *, right: bool = True, caption: str = "") -> Table:
    table = Table(title=title, caption=caption)
    table.add_column(first_heading)
    for number, name in enumerate(models):
        table.add_column(_escape(name if number else f"{name} (reference)"), justify="right" if right else "left")
    return table


def _caption(results: Scores) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in results["dropped"].items())
    return f"dropped rows: {dropped}" if dropped else ""


def _crows_pairs_cell(scores: Scores) -> str:
    """Return the share with its interval, the difference to the reference with its interval, and the ties."""
    cell = f"{_number(scores['share'], 1, 100)} {_range(scores['interval'], 100)}"
    if "delta" in scores:
        cell += f"\n{_signed(scores['delta'], 100)} {_range(scores['delta_interval'], 100)}"
        cell += f", same choice {_number(scores['same_choice'], 1, 100, '%')}"
    return cell + (f"\n{scores['ties']:,} tie(s)" if scores["ties"] else "")


def _stereoset_cell(scores: Scores) -> str:
    cell = " / ".join(_number(scores[key], 1) for key in stereoset.SCORES)
    cell += f"\nSS {_range(scores.get('ss_interval'), 1)}"
    if "ss_delta" in scores:
        cell += f"\n{' / '.join(_signed(scores[f'{key}_delta'], 1) for key in stereoset.SCORES)}"
        cell += f", same choice {_number(scores['same_choice'], 1, 100, '%')}"
    return cell


def _number(value: float | None, digits: int, scale: float = 1, unit: str = "") -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}{unit}"


def _signed(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{scale * value:+.1f}"


def _range(interval: Sequence[float] | None, scale: float) -> str:
    """Format an interval without square brackets, which rich would interpret as markup."""
    return "" if interval is None else f"({scale * interval[0]:.1f} to {scale * interval[1]:.1f})"


def _escape(text: str) -> str:
    """Escape the markup of rich, which would swallow `[MASK]`."""
    return text.replace("[", "\\[")
