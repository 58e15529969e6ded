"""Reports and cards of incomplete pipelines have whole sentences, no empty columns and no Python values."""

import itertools
import re
from html.parser import HTMLParser

import pytest

from distilray.config.report import ReportConfig
from distilray.report.model_card import model_card
from distilray.report.page import report_page
from distilray.report.runs import read_runs
from distilray.report.sections import training_curves, training_data
from tests.tiny.runs import (
    STUDENT_WEIGHTS,
    compared_glue,
    distillation,
    efficiency,
    fill_mask,
    known,
    write_line,
    write_run,
)

NAMES = (
    "corpus",
    "shards",
    "tokenizer",
    "teacher",
    "student",
    "fill_mask",
    "fill_mask-alone",
    "glue",
    "glue-teacher",
    "glue-compared",
    "search",
    "bias",
    "export",
    "efficiency",
    "efficiency-both",
    "glue_text",
    "follows",
    "cache",
    "bare-student",
)
SUBSETS = [
    *itertools.combinations(NAMES, 1),
    *(("student", name) for name in NAMES if name != "student"),
    *(("teacher", name) for name in ("fill_mask", "glue-teacher", "bias", "efficiency-both")),
    *(tuple(name for name in NAMES if name != left_out) for left_out in ("", "corpus", "teacher", "student")),
    *(("student", "teacher", "glue", name) for name in ("glue-teacher", "glue-compared", "efficiency-both")),
    ("corpus", "shards", "teacher", "student", "fill_mask", "bias", "export"),  # as the quickstart
]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    hashes = write_line(folder)
    both = {name: known(hashes[name]) for name in ("teacher", "student")}
    read = {"model": both["student"], "teacher": known("0" * 64)}  # the teacher's run is not in the report
    write_run(folder / "glue-compared", "evaluate_glue", inputs=read, **compared_glue(STUDENT_WEIGHTS))
    alone = fill_mask()
    del alone["files"]["scores.json"]["teacher"], alone["files"]["scores.json"]["agreement"]
    alone["files"]["scores.json"]["intervals"] = {"level": 0.95, "student": {"hit@1": None}}
    write_run(folder / "fill_mask-alone", "evaluate_fill_mask", inputs={"student": both["student"]}, **alone)
    cost = efficiency()
    cost["files"]["efficiency.json"]["models"]["teacher"] = {"parameters": 110_000_000, "latency_ms": 40.0}
    models = {f"models.{name}": entry for name, entry in both.items()}
    write_run(folder / "efficiency-both", "measure_efficiency", inputs=models, **cost)
    for name, job in (
        ("glue_text", "write_glue_text"),
        ("follows", "build_next_sentence_task"),
        ("cache", "cache_teacher"),
    ):
        write_run(folder / name, job)
    write_run(folder / "tokenizer", "train_tokenizer", counts={"vocabulary": 30_000, "tokenizer_hash": "d4" * 32})
    bare = distillation()
    bare |= {"counts": {"steps": 1}, "config": {}, "files": {}}
    bare["outputs"] = {"model/model.safetensors": {"bytes": 5, "sha256": "e5" * 32}}
    write_run(folder / "bare-student", "distill", **bare)
    return folder


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """Skip the charts, which take most of the time and have separate tests."""
    for section, name in ((training_curves, "line_chart"), (training_data, "bar_chart")):
        monkeypatch.setattr(section, name, lambda *_, **__: "")


def runs_of(line, names):
    return read_runs([str(line / name) for name in names])


class Page(HTMLParser):
    """Parser that collects tables by row, and the texts of paragraphs, list items, captions and headings."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.paragraphs, self.texts, self._open = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag in ("p", "li", "h1", "h2", "h3", "caption", "dt", "dd", "figcaption"):
            (self.paragraphs if tag == "p" else self.texts).append("")
        if tag not in ("code", "strong", "span", "a", "br"):
            self._open = tag

    def handle_data(self, training_data):
        if self._open in ("th", "td"):
            self.tables[-1][-1][-1] += training_data
        elif self._open == "p":
            self.paragraphs[-1] += training_data
        elif self._open in ("li", "h1", "h2", "h3", "caption", "dt", "dd", "figcaption"):
            self.texts[-1] += training_data


def check_columns(rows):
    """Check that no column is empty except for its heading; the first column contains the row headings."""
    first, *body = rows
    for number, cells in enumerate(zip(*body, strict=True)):
        assert number == 0 or any(cell.strip() not in ("", "-") for cell in cells), (first[number], rows)
    assert all(heading.strip() for heading in first[1:]) or not any(first)


BROKEN = (
    r"\b(None|nan|NaN|inf|null|True|False)\b",
    r"[a-z,] {2,}",
    r" [,.;:)]",
    r"\( ?\)",
    r"[,;:]{2}|\.\.(?!\.)|[,;:]\.",
    r"\b(the|a|an|of|in|by|with|and|from) (of|by|to|on|and|from)\b(?! (the|all|several|left)\b)",
    r"\b(of|the|a|an|with|from|and|in|by)[.,;:)]",
    r"\b1 [a-z]+s\b(?<!1 pos)",
    r"\(s\)",
)


def check_text(text):
    for pattern in BROKEN:
        assert not re.search(pattern, text), (pattern, text)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_a_report_of_some_runs_has_whole_sentences_and_no_empty_column(line, names):
    page = Page(report_page(runs_of(line, names), "tiny"))
    for rows in page.tables:
        check_columns(rows if len(rows) > 1 else [[""] * len(rows[0]), *rows])
    for text in page.paragraphs:
        check_text(text)
        assert re.match(r"[A-Z0-9]", text), text
        assert text.rstrip().endswith((".", ":")), text
    for text in page.texts:
        check_text(text)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_a_card_of_some_runs_has_whole_sentences_and_no_empty_column(line, names):
    config = ReportConfig(run_dir="unused", run_paths=[str(line / name) for name in names])
    card = model_card(runs_of(line, names), config).split("---\n", 2)[2]
    card = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    for block in filter(None, (part.strip() for part in card.split("\n\n"))):
        if block.startswith("|"):
            rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in block.splitlines()]
            check_columns([rows[0], *rows[2:]])
        elif not block.startswith("#"):
            check_text(block)
            assert re.match(r"[A-Z0-9`]", block), block
            assert block.endswith((".", ":")), block
