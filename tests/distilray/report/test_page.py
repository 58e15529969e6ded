import hashlib
import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from distilray.errors import InputError
from distilray.report.page import SECTIONS, missing_jobs, report_page
from distilray.report.runs import JOBS, read_runs
from distilray.report.sections.provenance import unknown_inputs
from tests.tiny.runs import EVIL, known, write_run

ALL = ("corpus", "shards", "teacher", "student", "fill_mask", "glue", "search", "bias", "export", "efficiency")


@pytest.fixture(scope="module")
def folder(pipeline):
    return pipeline[0]


def runs_of(folder, *names):
    return read_runs([str(folder / name) for name in names])


@pytest.fixture(scope="module")
def page(folder):
    return report_page(runs_of(folder, *ALL, "glue-teacher"), "tiny")


class Parser(HTMLParser):
    """Parser that collects the tags and their attributes, and checks that all are closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self._open = [], []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_is_valid_needs_no_network_and_runs_no_script(page):
    tags = Parser(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    names = ("href", "src", "xlink:href")
    for address in (attributes[name] for _, attributes in tags for name in names if attributes.get(name)):
        assert address.startswith("data:") or address.removeprefix("#") in ids, address
    assert not {"script", "iframe", "object"} & {tag for tag, _ in tags}
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3


def test_the_page_is_accessible(page):
    tags = Parser(page).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 == levels.count(1)
    assert all(lower - upper <= 1 for upper, lower in itertools.pairwise(levels))
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) > 20
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def row(heading, *cells):
    return f'<th scope="row">{heading}</th>' + "".join(f'<td class="n">{cell}</td>' for cell in cells)


@pytest.mark.parametrize(
    "text",
    [
        "<h1>tiny keeps 60.0% of hit@10 at 60% of the size, 1.7x as fast</h1>",
        "parameters\nless is better: teacher 110.0 M, student 60.0% (66.0 M)",
        "hit@10: teacher 0.500, student 0.300",
        "GLUE, dev split, times 100: rte: teacher 66.0, student 55.0",
        "race-color: teacher 60.5, student 56.7",
        "<blockquote>the <mark>[MASK]</mark> of &lt;script&gt;alert(1)&lt;/script&gt;.</blockquote>",
        '<dt>teacher</dt><dd class="true" style="--share: 75.0%">capital <span>75%</span></dd>',
        '<dt>student</dt><dd style="--share: 50.0%">city <span>50%</span></dd><dd class="true"',
        "3 documents, 30 sentences, 300 words",
        row("too short", 2),
        row("predicted tokens, of all tokens", "15.00%", "14.60%"),
        row("replaced by [MASK], of these", "80.00%", "80.14%"),
        row("token ids that occur in the train documents", 2),
        row("share of unknown tokens", "1.0000%"),
        row("true token predicted (hit@1)", "0.010", "0.312"),
        'aria-label="Learning rate of student by step: learning rate from 1.0e-4 to 1.0e-4"',
        row("hit@10", "0.500", "0.300", "60.0%", "-0.300 to -0.100"),
        row("sharpness of tails", "0.1235", "0.1235"),
        row("dropped: no mask", 7),
        # The student's GLUE score, spread, seeds, majority, score above it, share of the teacher's 66, raw and above
        # chance, card.
        '<td class="n">55.0</td><td class="n">55.0 to 55.0</td><td class="n">3</td><td class="n">53.0</td>'
        '<td class="n">+2.0</td><td class="n">83.3%</td><td class="n">15.4%</td><td class="n">59.9</td>',
        "rte: the best of 3 trials by score on dev (1 complete, 1 failed, 1 stopped)",
        "56.7 (46.7 to 66.7)<br>+1.0 (-10.0 to 10.0), same choice 90.0%",
        row("onnx-int8", "-"),
        row("int8", "66,000,000"),
        "c0ffeec0ffee",
    ],
)
def test_the_page_shows(page, text):
    assert text in page


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("name", [*ALL, "glue-teacher"])
def test_a_report_of_one_run_has_only_sections_with_content(folder, name):
    runs = runs_of(folder, name)
    page = report_page(runs, "tiny")
    sections = re.findall(r'<h2 id="([^"]+)">[^<]+</h2>\n(.*?)</section>', page, re.DOTALL)
    assert all(re.sub(r"<[^>]+>|\s", "", body) for _, body in sections)
    assert {anchor for anchor, _ in sections} <= {spec.anchor for spec in SECTIONS if runs.by_job(*spec.jobs)} | {
        "provenance"
    }
    assert missing_jobs(runs)


def test_verdict_answers_and_scores_come_before_settings(page):
    order = ["<h1>", '<h2 id="claim">', '<h2 id="answers">', '<h2 id="fill-mask">', '<h2 id="glue">', '<h2 id="bias">']
    order += ["Held-out scores", "Settings and size", '<h2 id="corpus">', '<h2 id="provenance">']
    positions = [page.index(part) for part in order]
    assert positions == sorted(positions)


@pytest.mark.usefixtures("without_charts")
def test_a_fill_mask_run_of_an_earlier_version_has_no_sentences(folder, tmp_path):
    copy = shutil.copytree(folder / "fill_mask", tmp_path / "fill_mask")
    (copy / "sentences.jsonl").unlink()
    page = report_page(runs_of(tmp_path, "fill_mask"), "tiny")
    assert '<h2 id="fill-mask">' in page
    assert '<h2 id="answers">' not in page


@pytest.mark.usefixtures("without_charts")
def test_runs_that_belong_to_others_are_named(folder, tmp_path):
    runs = runs_of(folder, "shards", "teacher", "student", "bias")
    assert unknown_inputs(runs) == []
    read = {"models.teacher": known("0" * 64)}
    write_run(tmp_path / "stranger", "evaluate_bias", inputs=read, files={"scores.json": {"models": []}})
    runs = runs_of(folder, "teacher", str(tmp_path / "stranger"))
    warning = "stranger (evaluate_bias) used a different models.teacher: 000000000000"
    assert unknown_inputs(runs) == [warning]
    assert warning in report_page(runs, "tiny")


def test_a_single_model_has_its_own_interval(tmp_path):
    model = {"parameters": 5, "hit@1": 0.25}
    scores = {"student": model, "intervals": {"level": 0.9, "student": {"hit@1": [0.2, 0.3]}}}
    write_run(tmp_path / "alone", "evaluate_fill_mask", files={"scores.json": scores})
    page = report_page(runs_of(tmp_path, "alone"), "tiny")
    assert "90% interval" in page
    assert row("hit@1", "0.250", "0.200 to 0.300") in page


def test_runs_are_in_the_order_of_the_pipeline_and_have_distinct_names(folder, tmp_path):
    jobs = [run.job for run in runs_of(folder, *reversed(ALL))]
    assert jobs == sorted(jobs, key=JOBS.index)
    write_run(tmp_path / "again/glue", "evaluate_bias", files={"scores.json": {"models": []}})
    runs = runs_of(folder, "glue", str(tmp_path / "again/glue"))
    assert [run.name for run in runs] == [f"{folder.name}/glue", "again/glue"]


def test_a_key_that_another_version_did_not_write_is_reported_in_one_line(tmp_path):
    write_run(tmp_path / "bias", "evaluate_bias", files={"scores.json": {"tables": []}})
    with pytest.raises(InputError, match="no 'models' in its files"):
        report_page(runs_of(tmp_path, "bias"), "tiny")


def test_a_file_that_was_edited_after_its_run_is_reported(tmp_path):
    scores = json.dumps({"models": []})
    output = {"bytes": len(scores), "sha256": hashlib.sha256(scores.encode()).hexdigest()}
    write_run(tmp_path / "bias", "evaluate_bias", files={"scores.json": scores}, outputs={"scores.json": output})
    (run,) = runs_of(tmp_path, "bias")
    assert run.read_text("scores.json") == scores
    (tmp_path / "bias/scores.json").write_text(scores.replace("models", "Models"))
    with pytest.raises(InputError, match=r"scores\.json"):
        runs_of(tmp_path, "bias").runs[0].read_text("scores.json")
