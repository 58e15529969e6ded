"""The tables of a bias evaluation: one column for each model, the reference first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.evaluation.bias import crows_pairs, stereoset

Scores = Mapping[str, Any]


def bias_tables(scores: Scores) -> Iterator[Table]:
    """The tables of a `scores.json`, those that it has: probes of the card and the groups, CrowS-Pairs, StereoSet."""
    models = scores["models"]
    if "probes" in scores:
        yield _answers("probes of the model card", scores["probes"]["card"], models)
        yield _words(scores["probes"]["table"], models)
        yield _groups(scores["probes"], models)
    if "crows_pairs" in scores:
        yield _crows_pairs(scores["crows_pairs"], models)
    if "stereoset" in scores:
        yield _stereoset(scores["stereoset"], models)


def _answers(title: str, rows: Sequence[Scores], models: Sequence[str]) -> Table:
    table = _table(title, "text", models, right=False)
    for row in rows:
        lines = [
            "\n".join(f"{answer['token']} {answer['score']:.3f}" for answer in row["answers"][name]) for name in models
        ]
        table.add_row(_plain(row["text"]), *map(_plain, lines), end_section=True)
    return table


def _words(rows: Sequence[Scores], models: Sequence[str]) -> Table:
    title = "every template with every group: the best answers (their probabilities: scores.json)"
    table = _table(title, "text", models, right=False)
    for number, row in enumerate(rows, 1):
        lines = [", ".join(answer["token"] for answer in row["answers"][name]) for name in models]
        last_of_template = number == len(rows) or rows[number]["template"] != row["template"]
        table.add_row(_plain(row["text"]), *map(_plain, lines), end_section=last_of_template)
    return table


def _groups(probes: Scores, models: Sequence[str]) -> Table:
    title = f"groups: mean overlap of their top {probes['top_k']} (Jaccard; 1: the same answers)"
    table = _table(title, "", models)
    rows = {
        "groups that differ in gender": "genders",
        "groups that differ in race": "races",
        "with the reference, same text": "with_reference",
    }
    for heading, key in rows.items():
        table.add_row(heading, *(_number(probes["scores"][name]["overlap"].get(key), 2) for name in models))
    preferred = [probes["scores"][name]["pronouns"]["he_preferred"] for name in models]
    table.add_row("occupations with he before she", *(_number(share, 1, 100, "%") for share in preferred))
    return table


def _crows_pairs(found: Scores, models: Sequence[str]) -> Table:
    title = (
        f"CrowS-Pairs: the more stereotyping sentence is more likely, % of {found['pairs']:,} pairs (50: no preference)"
    )
    table = _table(title, "", models, caption=_caption(found))
    for part in ("overall", *crows_pairs.DIRECTIONS, *crows_pairs.BIAS_TYPES):
        cells = [found["scores"][name][part] for name in models]
        heading = f"{part} ({cells[0]['pairs']:,})"
        if cells[0]["pairs"]:
            table.add_row(heading, *(_share(cell) for cell in cells), end_section=part in ("overall", "antistereo"))
    return table


def _stereoset(found: Scores, models: Sequence[str]) -> Table:
    title = f"StereoSet, intrasentence, {found['examples']:,} examples, scoring {found['scoring']}: LMS / SS / ICAT"
    table = _table(title, "", models, caption=_caption(found))
    for part in ("overall", *stereoset.BIAS_TYPES):
        cells = [found["scores"][name][part] for name in models]
        heading = f"{part} ({cells[0]['examples']:,})"
        if cells[0]["examples"]:
            table.add_row(heading, *(_stereoset_cell(cell) for cell in cells), end_section=part == "overall")
    return table


def _table(title: str, first: str, models: Sequence[str], *, right: bool = True, caption: str = "") -> Table:
    table = Table(title=title, caption=caption)
    table.add_column(first)
    for number, name in enumerate(models):
        table.add_column(_plain(name if number else f"{name} (reference)"), justify="right" if right else "left")
    return table


def _caption(found: Scores) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in found["dropped"].items())
    return f"rows left out: {dropped}" if dropped else ""


def _share(cell: Scores) -> str:
    """Share and its interval; below, the difference to the reference with its interval, and the ties."""
    told = f"{_number(cell['share'], 1, 100)} {_range(cell['interval'], 100)}"
    if "delta" in cell:
        told += f"\n{_signed(cell['delta'], 100)} {_range(cell['delta_interval'], 100)}"
        told += f", same choice {_number(cell['same_choice'], 1, 100, '%')}"
    return told + (f"\n{cell['ties']:,} tie(s)" if cell["ties"] else "")


def _stereoset_cell(cell: Scores) -> str:
    told = " / ".join(_number(cell[key], 1) for key in stereoset.SCORES) + f"\nSS {_range(cell.get('ss_interval'), 1)}"
    if "ss_delta" in cell:
        told += f"\n{' / '.join(_signed(cell[f'{key}_delta'], 1) for key in stereoset.SCORES)}"
        told += f", same choice {_number(cell['same_choice'], 1, 100, '%')}"
    return told


def _number(value: float | None, digits: int, scale: float = 1, unit: str = "") -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}{unit}"


def _signed(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{scale * value:+.1f}"


def _range(interval: Sequence[float] | None, scale: float) -> str:
    """The interval in words: a table cell with square brackets would be read as markup."""
    return "" if interval is None else f"({scale * interval[0]:.1f} to {scale * interval[1]:.1f})"


def _plain(text: str) -> str:
    """Text that rich prints as it is, `[MASK]` included."""
    return text.replace("[", "\\[")
