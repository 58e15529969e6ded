"""The report in a real browser: no errors and no overflow, on phone and desktop widths."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest

from distilray.report.page import report_page
from distilray.report.runs import read_runs
from tests.tiny.runs import write_line

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (360, 390, 1280)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")]

# Shows the page in frames of several widths, because a headless browser window has a minimum width. Collects elements
# beyond the edge of their frame, except in scrollable boxes, and counts the charts.
MEASURE = """
<script>
window.addEventListener("load", () => {
  const results = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, edge = page.documentElement.clientWidth;
    const beyond = [...page.querySelectorAll("main *, header *, nav *")].filter(element =>
      element.getBoundingClientRect().right > edge + 1 && !element.closest(".scroll"));
    const boxes = [...page.querySelectorAll(".scroll")];
    const charts = [...page.querySelectorAll("svg")].filter(chart => chart.getBoundingClientRect().height > 100);
    return {edge, width: page.documentElement.scrollWidth,
      beyond: beyond.map(element => element.outerHTML.slice(0, 80)),
      unreachable: boxes.filter(box => box.scrollWidth > box.clientWidth && box.tabIndex < 0).length,
      charts: charts.length, pictures: [...page.images].filter(image => image.naturalWidth > 100).length,
      ran: page.defaultView.ran || false};
  });
  document.body.innerHTML = "<pre>" + JSON.stringify(results) + "</pre>";
});
</script>
"""


def open_in_browser(file, tmp_path, *arguments):
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",  # containers have no user namespaces for the sandbox
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        *arguments,
        file.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def console_of(errors):
    return [line for line in errors.splitlines() if ":CONSOLE" in line]


def test_the_page_fits_phone_and_desktop_without_console_messages(tmp_path):
    write_line(tmp_path / "line")
    folders = sorted(str(folder) for folder in (tmp_path / "line").iterdir())
    page = report_page(read_runs(folders), "A model <script>window.ran = true; console.error('ran')</script>")
    report, frames = tmp_path / "report.html", tmp_path / "frames.html"
    report.write_text(page, encoding="utf-8")
    shown = [
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{escape(page)}"></iframe>' for width in WIDTHS
    ]
    frames.write_text(f"<!doctype html><body>{''.join(shown)}{MEASURE}", encoding="utf-8")

    alone = open_in_browser(report, tmp_path, f"--screenshot={tmp_path / 'desktop.png'}", "--window-size=1200,3000")
    assert console_of(alone.stderr) == []
    assert (tmp_path / "desktop.png").stat().st_size > 50_000

    measured = open_in_browser(frames, tmp_path, "--dump-dom", "--window-size=2200,1000")
    assert console_of(measured.stderr) == []
    match = re.search(r"<pre>(.*)</pre>", measured.stdout, re.DOTALL)
    assert match is not None, measured.stdout[-500:]
    for width, result in zip(WIDTHS, json.loads(unescape(match[1])), strict=True):
        assert result["edge"] == width
        assert result["width"] == width, f"{result['width']} px wide instead of {width}"
        assert result["beyond"] == []
        assert result["unreachable"] == 0
        assert result["charts"] == 16
        assert result["pictures"] == 1
        assert not result["ran"]


def test_console_messages_are_detected(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><script>console.error('logged')</script>")
    assert any("logged" in line for line in console_of(open_in_browser(page, tmp_path, "--dump-dom").stderr))
