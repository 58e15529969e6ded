import itertools
import re
from html.parser import HTMLParser

import pytest

from distilray.errors import InputError
from distilray.report.page import SECTIONS, missing_jobs, report_page
from distilray.report.runs import JOBS, read_runs
from distilray.report.sections.provenance import unknown_inputs
from tests.tiny.runs import EVIL, known, write_line, write_run

ALL = ("corpus", "shards", "teacher", "student", "fill_mask", "glue", "search", "bias", "export", "efficiency")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    write_line(folder)
    return folder


def page_of(folder, *names):
    return report_page(read_runs([str(folder / name) for name in names]), "tiny")


@pytest.fixture(scope="module")
def page(line):
    return page_of(line, *ALL, "glue-teacher")


class Parsed(HTMLParser):
    """Parser that collects the tags, ids and links of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.targets, self.addresses, self.headings, self._open = [], [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        href = found.get("href") or found.get("src") or found.get("xlink:href") or ""
        (self.targets if href.startswith("#") else self.addresses).append(href)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in ("meta", "link", "br", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_all_tags_are_closed_and_every_link_of_the_contents_has_its_place(page):
    parsed = Parsed(page)
    assert not parsed._open
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {target[1:] for target in parsed.targets} <= set(parsed.ids)


def test_the_page_needs_no_network_and_no_script(page):
    parsed = Parsed(page)
    assert all(not address or address.startswith("data:") for address in parsed.addresses)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")


def test_headings_go_down_one_level_at_a_time(page):
    levels = Parsed(page).headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(lower - upper <= 1 for upper, lower in itertools.pairwise(levels))


def test_every_picture_has_a_text_and_every_table_a_caption(page):
    tags = Parsed(page).tags
    assert all(found.get("aria-label") for tag, found in tags if tag == "svg")
    assert all(found.get("alt") for tag, found in tags if tag == "img")
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) > 20
    assert all("scope" in found for tag, found in tags if tag == "th")


def test_text_of_the_runs_is_text_in_the_page(page):
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3


@pytest.mark.parametrize(
    "told",
    [
        "3 documents, 30 sentences, 300 words",
        '<th scope="row">too short</th><td class="n">2</td>',
        '<th scope="row">predicted tokens, of all tokens</th><td class="n">15.00%</td><td class="n">14.60%</td>',
        '<th scope="row">replaced by [MASK], of these</th><td class="n">80.00%</td><td class="n">80.14%</td>',
        '<th scope="row">token ids that occur in the train documents</th><td class="n">2</td>',
        '<th scope="row">share of unknown tokens</th><td class="n">1.0000%</td>',
        '<th scope="row">true token predicted (hit@1)</th><td class="n">0.010</td><td class="n">0.312</td>',
        'aria-label="Learning rate of student by step: learning rate from 1.0e-4 to 1.0e-4"',
        '<td class="n">0.500</td><td class="n">0.300</td><td class="n">60.0%</td><td class="n">-0.300 to -0.100</td>',
        '<th scope="row">sharpness of tails</th><td class="n">0.1235</td><td class="n">0.1235</td>',
        '<th scope="row">dropped: no mask</th><td class="n">7</td>',
        # The student's GLUE score, spread, seeds, majority, score above it, share of the teacher's 66, raw and above
        # chance, card.
        '<td class="n">55.0</td><td class="n">55.0 to 55.0</td><td class="n">3</td><td class="n">53.0</td>'
        '<td class="n">+2.0</td><td class="n">83.3%</td><td class="n">15.4%</td><td class="n">59.9</td>',
        'rte: the best of 3 trials by score on dev (1 complete, 1 failed, 1 stopped)',
        "56.7 (46.7 to 66.7)<br>+1.0 (-10.0 to 10.0), same choice 90.0%",
        '<th scope="row">onnx-int8</th><td class="n">-</td>',
        "export: onnx-int8/model.onnx",
        '<th scope="row">int8</th><td class="n">66,000,000</td>',
        "c0ffeec0ffee",
    ],
)  # fmt: skip
def test_the_page_shows(page, told):
    assert told in page


@pytest.mark.parametrize("name", [*ALL, "glue-teacher"])
def test_a_report_of_one_run_names_the_jobs_of_all_that_is_missing(line, name):
    runs = read_runs([str(line / name)])
    page = report_page(runs, "tiny")
    absent = missing_jobs(runs)
    assert absent
    assert all(f"python -m jobs.{job} --recipe" in page for job in absent)
    assert all(part.jobs[0] in absent or f'<h2 id="{part.anchor}">' in page for part in SECTIONS)


def test_nothing_is_missing_in_a_whole_line(page):
    assert "Missing runs" not in page


def test_runs_that_belong_to_others_are_named(line, tmp_path):
    own = [str(line / name) for name in ("shards", "teacher", "student", "bias")]
    assert unknown_inputs(read_runs(own)) == []
    read = {"models.teacher": known("0" * 64)}
    write_run(tmp_path / "stranger", "evaluate_bias", inputs=read, files={"scores.json": {"models": []}})
    told = "stranger (evaluate_bias) used a different models.teacher: 000000000000"
    assert unknown_inputs(read_runs([*own, str(tmp_path / "stranger")])) == [told]
    assert told in page_of(line, "teacher", str(tmp_path / "stranger"))


def test_a_model_alone_stands_beside_its_interval(tmp_path):
    scores = {
        "student": {"parameters": 5, "hit@1": 0.25},
        "intervals": {"level": 0.9, "student": {"hit@1": [0.2, 0.3]}},
    }
    write_run(tmp_path / "alone", "evaluate_fill_mask", files={"scores.json": scores})
    page = page_of(tmp_path, "alone")
    assert "90% interval" in page
    assert '<th scope="row">hit@1</th><td class="n">0.250</td><td class="n">0.200 to 0.300</td>' in page


def test_runs_stand_in_the_order_of_the_line_whatever_that_of_the_recipe(line):
    found = [run.job for run in read_runs([str(line / name) for name in reversed(ALL)])]
    assert found == sorted(found, key=JOBS.index)


def test_folders_of_one_name_are_told_apart(line, tmp_path):
    write_run(tmp_path / "again/glue", "evaluate_bias", files={"scores.json": {"models": []}})
    runs = read_runs([str(line / "glue"), str(tmp_path / "again/glue")])
    assert [run.name for run in runs] == [f"{line.name}/glue", "again/glue"]


def test_a_key_that_another_version_has_not_written_is_one_line(line, tmp_path):
    write_run(tmp_path / "bias", "evaluate_bias", files={"scores.json": {"tables": []}})
    with pytest.raises(InputError, match="no 'models' in its files"):
        page_of(tmp_path, "bias")
