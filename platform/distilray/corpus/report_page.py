"""The report of a corpus as a page of HTML."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; text-align: right; }
td { font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
td.bar { width: 16rem; text-align: left; }
td.bar span { display: inline-block; height: .8rem; background: #3b76c4; min-width: 1px; }
"""
_COUNTED = (
    ("files", "files"),
    ("read", "documents read"),
    ("documents", "documents kept"),
    ("refused", "documents refused"),
    ("sentences", "sentences"),
    ("words", "words"),
    ("tokens", "tokens"),
    ("residue_per_1000_words", "residue of markup per 1,000 words"),
    ("holes_per_1000_words", "holes per 1,000 words"),
    ("stored_bytes", "bytes as stored"),
    ("lost_bytes", "bytes that could not be read"),
)

Values = Mapping[str, Any]


def report_page(report: Values) -> str:
    """The report as a page that needs nothing but itself.

    Args:
        report: from `report.corpus_report`.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Corpus report</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>Corpus report</h1>\n{_section(report)}</body></html>\n"
    )


def _section(report: Values) -> str:
    sources: Values = report["sources"]
    parts = [
        f"<p>{report['documents']:,} documents, {report['sentences']:,} sentences, {report['words']:,} words, "
        f"{report['tokens']:,} {escape(report['token_unit'])}.</p>",
        _table("Sources", ["", *sources], [_across(sources, key, label) for key, label in _COUNTED]),
        _table("Documents dropped", ["reason", *sources], _by_reason(sources, "dropped")),
        _table(
            "Sentences dropped from documents that were kept",
            ["reason", *sources],
            _by_reason(sources, "sentences_dropped"),
        ),
        *[
            _table(
                f"Most used unknown templates in sentences: {name}",
                ["template", "uses"],
                source["unknown_templates"].items(),
            )
            for name, source in sources.items()
        ],
        _table("In quarantine", ["reason", *sources], _by_reason(sources, "quarantined")),
        _evaluation(report["evaluation_sets"]),
        _books(report["books"]),
        *[_bars(f"Words in a document: {name}", found["words_per_document"]) for name, found in sources.items()],
        *[_bars(f"Words in a sentence: {name}", found["words_per_sentence"]) for name, found in sources.items()],
        _stages(report["stages"]),
        _projection(report["full_wikipedia"]),
    ]
    return "<section>\n" + "\n".join(part for part in parts if part) + "\n</section>\n"


def _across(sources: Values, key: str, label: str) -> list[object]:
    return [label, *[source[key] for source in sources.values()]]


def _by_reason(sources: Values, key: str) -> list[list[object]]:
    reasons = sorted({reason for source in sources.values() for reason in source[key]})
    return [[reason, *[source[key].get(reason, 0) for source in sources.values()]] for reason in reasons]


def _evaluation(sets: Values) -> str:
    rows = [[name, found["documents"]] for name, found in sets.items()]
    return _table("Documents that held text of an evaluation set", ["set", "documents"], rows)


def _books(books: Values | None) -> str:
    if books is None:
        return ""
    goal: Values = books["bookcorpus"]
    rows: list[list[object]] = [
        ["files", books["files"], goal["books"]],
        ["duplicates", books["duplicates"], goal["books"] - goal["unique_books"]],
        ["unique books", books["unique_books"], goal["unique_books"]],
        ["words", books["words"], goal["words"]],
    ]
    return _table("Books", ["", "here", "BookCorpus"], rows)


def _stages(stages: Values) -> str:
    rows = [[name, found["seconds"], found["mb_per_s"]] for name, found in stages.items()]
    return _table("Time", ["stage", "seconds", "MB of input text per second and task"], rows)


def _projection(projection: Values | None) -> str:
    if projection is None:
        return ""
    rows = [[f"{cores} cores", hours] for cores, hours in projection["hours_by_cores"].items()]
    size = projection["stored_bytes"] / 1e9
    return _table(f"The whole English Wikipedia ({size:.0f} GB of bz2) at this rate", ["", "hours"], rows)


def _bars(caption: str, bins: Mapping[str, int]) -> str:
    most = max(bins.values(), default=0)
    rows = [
        f"<tr><td>from {int(low):,}</td><td>{count:,}</td>"
        f'<td class="bar"><span style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for low, count in bins.items()
    ]
    return f"<table><caption>{escape(caption)}</caption>{''.join(rows)}</table>" if rows else ""


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    if not body:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><caption>{escape(caption)}</caption><tr>{titles}</tr>{body}</table>"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else escape(str(value))
