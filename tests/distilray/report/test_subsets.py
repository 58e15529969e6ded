"""Reports and cards of incomplete pipelines have complete sentences, no empty columns and no Python values."""

import itertools
import re
from html.parser import HTMLParser

import pytest

from distilray.config.report import ReportConfig
from distilray.report.model_card import model_card
from distilray.report.page import report_page
from distilray.report.runs import read_runs
from tests.tiny.runs import STUDENT_WEIGHTS, compared_glue, distillation, efficiency, fill_mask, known, write_run

NAMES = (
    *("corpus", "shards", "tokenizer", "teacher", "student", "fill_mask", "fill_mask-alone", "glue", "glue-teacher"),
    *("glue-compared", "search", "bias", "export", "efficiency", "efficiency-both", "glue_text", "follows", "cache"),
    "bare-student",
)
SUBSETS = [
    *itertools.combinations(NAMES, 1),
    *(("student", name) for name in NAMES if name != "student"),
    *(("teacher", name) for name in ("fill_mask", "glue-teacher", "bias", "efficiency-both")),
    *(tuple(name for name in NAMES if name != excluded) for excluded in ("", "corpus", "teacher", "student")),
    *(("student", "teacher", "glue", name) for name in ("glue-teacher", "glue-compared", "efficiency-both")),
    ("corpus", "shards", "teacher", "student", "fill_mask", "bias", "export"),  # the quickstart
]


@pytest.fixture(scope="module")
def paths(pipeline, tmp_path_factory):
    """Paths of the complete pipeline and of further runs by name."""
    complete, hashes = pipeline
    folder = tmp_path_factory.mktemp("more")
    both = {name: known(hashes[name]) for name in ("teacher", "student")}
    inputs = {"model": both["student"], "teacher": known("0" * 64)}  # the teacher's run is not in the report
    write_run(folder / "glue-compared", "evaluate_glue", inputs=inputs, **compared_glue(STUDENT_WEIGHTS))
    alone = fill_mask()
    scores = alone["files"]["scores.json"]
    del scores["teacher"], scores["agreement"]
    scores["intervals"] = {"level": 0.95, "student": {"hit@1": None}}
    write_run(folder / "fill_mask-alone", "evaluate_fill_mask", inputs={"student": both["student"]}, **alone)
    cost = efficiency()
    cost["files"]["efficiency.json"]["models"]["teacher"] = {"parameters": 110_000_000, "latency_ms": 40.0}
    models = {f"models.{name}": entry for name, entry in both.items()}
    write_run(folder / "efficiency-both", "measure_efficiency", inputs=models, **cost)
    jobs = {"glue_text": "write_glue_text", "follows": "build_next_sentence_task", "cache": "cache_teacher"}
    for name, job in jobs.items():
        write_run(folder / name, job)
    write_run(folder / "tokenizer", "train_tokenizer", counts={"vocabulary": 30_000, "tokenizer_hash": "d4" * 32})
    bare = distillation() | {"counts": {"steps": 1}, "config": {}, "files": {}}
    bare["outputs"] = {"model/model.safetensors": {"bytes": 5, "sha256": "e5" * 32}}
    write_run(folder / "bare-student", "distill", **bare)
    return {path.name: str(path) for parent in (complete, folder) for path in parent.iterdir()}


class Page(HTMLParser):
    """Parser that collects the cells of tables and the text of other elements by tag."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.texts, self._open = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag in ("p", "li", "h1", "h2", "h3", "caption", "dt", "dd", "figcaption"):
            self.texts.append([tag, ""])
        if tag not in ("code", "strong", "span", "a", "br"):
            self._open = tag

    def handle_data(self, data):
        if self._open in ("th", "td"):
            self.tables[-1][-1][-1] += data
        elif self.texts and self._open == self.texts[-1][0]:
            self.texts[-1][1] += data


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


def check_text(text, *, is_sentence=False):
    for pattern in BROKEN:
        assert not re.search(pattern, text), (pattern, text)
    assert not is_sentence or re.fullmatch(r"[A-Z0-9`].*[.:]", text, re.DOTALL), text


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_report_and_card_of_some_runs_have_complete_sentences_and_no_empty_column(paths, names):
    run_paths = [paths[name] for name in names]
    runs = read_runs(run_paths)
    page = Page(report_page(runs, "tiny"))
    for rows in page.tables:
        check_columns(rows if len(rows) > 1 else [[""] * len(rows[0]), *rows])
    for tag, text in page.texts:
        check_text(text.rstrip(), is_sentence=tag == "p")
    card = model_card(runs, ReportConfig(run_dir="unused", run_paths=run_paths)).split("---\n", 2)[2]
    for block in filter(None, map(str.strip, re.sub(r"```.*?```", "", card, flags=re.DOTALL).split("\n\n"))):
        if block.startswith("|"):
            rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in block.splitlines()]
            check_columns([rows[0], *rows[2:]])
        elif not block.startswith("#"):
            check_text(block, is_sentence=True)
