"""The page for everyone, and the documentation: names, contrast, width, motion, and what the browser is not let do."""

import pytest

from tests.serve.page.fake_service import STUDENT
from tests.serve.page.page_actions import ONE, ROWS, TWO, ask, focus_of, opened, rows
from tests.serve.waiting import wait_for

pytestmark = pytest.mark.slow

CONTRAST = 4.5


def test_everything_that_can_be_operated_has_a_name(page, pair):
    ask(page, pair, TWO)
    controls = page.controls()
    assert len(controls) > 4 * len(STUDENT)
    assert [role for role, name in controls if not name.strip()] == []
    assert ("textbox", "Sentence") in controls
    assert ("button", "capital 82.1%") in controls


# Lightness of what a text stands on is that of its nearest painted ancestor; the bars, which are painted as pictures,
# are added. Luminance and contrast as WCAG 2.2 defines them.
CONTRASTS = """
(() => {
  const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const linear = one => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
    const [r, g, b] = rgb(colour).map(one => linear(one / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + .05) / (dark + .05);
  };
  const below = element => {
    for (let one = element; one; one = one.parentElement) {
      const {backgroundColor: colour, backgroundImage: picture} = getComputedStyle(one);
      const bars = picture.match(/rgb\\([^)]*\\)/g) ?? [];
      if (rgb(colour)[3] !== 0) return [colour, ...bars];
    }
    throw new Error("nothing painted below");
  };
  const texts = [...document.querySelectorAll("body *")].filter(element => element.checkVisibility()
    && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && !element.matches(":disabled"));
  const found = texts.flatMap(element => below(element).map(colour =>
    [contrast(getComputedStyle(element).color, colour), element.outerHTML.slice(0, 90)]));
  const fields = [...document.querySelectorAll("input, textarea")].filter(element => element.checkVisibility());
  return [...found, ...fields.map(element =>
    [contrast(getComputedStyle(element, "::placeholder").color, below(element)[0]), element.id])];
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_it_stands_on(page, pair, scheme):
    page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    ask(page, pair, "half [MASK] [MASK]")
    page.click(ROWS)
    rows(page, len(STUDENT))
    page.run("document.querySelector('#access').hidden = document.querySelector('#forget').hidden = false")
    red = int(page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
    assert (red < 64) == (scheme == "dark")
    found = page.run(CONTRASTS)
    assert len(found) > 40
    assert [one for one in found if one[0] < CONTRAST] == []


@pytest.mark.parametrize("width", [320, 360, 500, 1200])
def test_nothing_lies_beyond_the_edge(page, pair, width):
    page.resize(width, 800)
    ask(page, pair, "half " + "Donaudampfschifffahrtsgesellschaft" * 3 + " [MASK] [MASK]")
    page.click("#copy")
    page.run("document.querySelector('#access').hidden = document.querySelector('#link').hidden = false")
    assert page.run("document.documentElement.scrollWidth") == width
    beyond = f"[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > {width})"
    assert page.run(f"{beyond}.map(one => one.outerHTML.slice(0, 80))") == []


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
@pytest.mark.parametrize(("sentence", "answer"), [(ONE, "#bar"), ("busy [MASK]", "#problem")])
def test_a_phone_scrolls_to_the_answer_and_keeps_the_focus(page, student, motion, sentence, answer):
    page.prefer(prefers_reduced_motion=motion)
    page.resize(360, 640, mobile=True)
    ask(page, student, sentence)
    page.until(f"document.querySelector('{answer}').getBoundingClientRect().top < 320")
    assert focus_of(page) == "text"


def test_an_answer_in_view_does_not_scroll(page, student):
    page.resize(1200, 900)
    ask(page, student, ONE)
    page.run("new Promise(requestAnimationFrame)")
    assert page.run("scrollY") == 0


def test_nothing_moves_for_those_who_want_less_motion(page, student):
    page.prefer(prefers_reduced_motion="reduce")
    ask(page, student, ONE)
    moving = (
        "[...document.querySelectorAll('*')].filter(one => parseFloat(getComputedStyle(one).transitionDuration) > 0)"
    )
    assert page.run(f"{moving}.length") == 0
    assert page.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_small_shares_can_be_read_and_seen(page, student):
    ask(page, student, "rare [MASK]")
    assert page.texts("#results .share") == ["99.9%", "0.71%", "0.04%", "0.0012%", "<0.001%"]
    sizes = page.run(f"[...document.querySelectorAll('{ROWS}')].map(row => getComputedStyle(row).backgroundSize)")
    assert all("3px" in size for size in sizes)


def test_the_documentation_shows_every_operation_and_tries_one_out(page, site):
    page.open(f"{site}/docs/")
    page.until("document.querySelectorAll('.opblock-summary-path').length > 0")
    shown = {text.replace("\u200b", "") for text in page.texts(".opblock-summary-path")}
    assert {"/v1/fill-mask", "/score", "/", "/healthz", "/readyz", "/info"} <= shown
    page.click("#operations-Service-info_info_get .opblock-summary-control")
    page.until("document.querySelector('.try-out__btn') !== null")
    page.click(".try-out__btn")
    page.until("document.querySelector('.execute') !== null")
    page.click(".execute")
    page.until(
        "document.querySelector('.live-responses-table tbody .response-col_status')?.innerText.startsWith('200')"
    )
    page.until("document.querySelector('.live-responses-table pre').innerText.includes('mask_token')")


def test_what_the_page_may_not_do_is_heard_as_a_complaint(page, student):
    opened(page, student)
    page.run("document.body.setAttribute('style', 'color: red'); console.error('heard'); 0")
    wait_for(lambda: page.run("1") and len(page.complaints) == 2, "both are heard")
    page.complaints.clear()
