"""Accessibility and security policy of the page and the documentation: names, contrast, width, motion."""

import pytest

from tests.serve.page.browser import ROWS
from tests.serve.page.fake_service import STUDENT
from tests.serve.waiting import wait_for

pytestmark = pytest.mark.slow

ONE, TWO = "Paris is [MASK] of France", "The [MASK] of the [MASK]"
CONTRAST = 4.5


def test_every_interactive_element_has_a_name(page, pair):
    page.ask(pair, TWO)
    controls = page.controls()
    assert len(controls) > 4 * len(STUDENT)
    assert [role for role, name in controls if not name.strip()] == []
    assert ("textbox", "Sentence") in controls
    assert ("button", "capital 82.1%") in controls


# The background of a text is that of its nearest painted ancestor, plus the bars, which are background images.
# Luminance and contrast follow WCAG 2.2.
CONTRASTS = """
(() => {
  const rgb = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const linear = one => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
    const [r, g, b] = rgb(color).map(one => linear(one / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + .05) / (dark + .05);
  };
  const below = element => {
    for (let one = element; one; one = one.parentElement) {
      const {backgroundColor: color, backgroundImage: picture} = getComputedStyle(one);
      const bars = picture.match(/rgb\\([^)]*\\)/g) ?? [];
      if (rgb(color)[3] !== 0) return [color, ...bars];
    }
    throw new Error("no painted ancestor");
  };
  const texts = [...document.querySelectorAll("body *")].filter(element => element.checkVisibility()
    && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && !element.matches(":disabled"));
  const contrasts = texts.flatMap(element => below(element).map(color =>
    [contrast(getComputedStyle(element).color, color), element.outerHTML.slice(0, 90)]));
  const fields = [...document.querySelectorAll("input, textarea")].filter(element => element.checkVisibility());
  return [...contrasts, ...fields.map(element =>
    [contrast(getComputedStyle(element, "::placeholder").color, below(element)[0]), element.id])];
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page, pair, scheme):
    page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.ask(pair, "half [MASK] [MASK]")
    page.click(ROWS)
    page.wait_for_rows(len(STUDENT))
    page.run("document.querySelector('#access').hidden = document.querySelector('#forget').hidden = false")
    red = int(page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
    assert (red < 64) == (scheme == "dark")
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 40
    assert [one for one in contrasts if one[0] < CONTRAST] == []


def test_nothing_overflows_the_page(page, pair):
    for width in (320, 360, 500, 1200):
        page.resize(width, 800)
        page.ask(pair, "half " + "Donaudampfschifffahrtsgesellschaft" * 3 + f" [MASK] [MASK] {width}")
        page.click("#copy")
        page.run("document.querySelector('#access').hidden = document.querySelector('#link').hidden = false")
        assert page.run("document.documentElement.scrollWidth") == width
        elements = page.all("body *", "[one.getBoundingClientRect().right, one.outerHTML.slice(0, 80)]")
        assert [html for right, html in elements if right > width] == []


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_a_phone_scrolls_to_the_answer_and_keeps_the_focus(page, student, motion):
    page.prefer(prefers_reduced_motion=motion)
    page.resize(360, 640, mobile=True)
    for sentence, answer in ((ONE, "#bar"), ("busy [MASK]", "#problem")):
        page.ask(student, sentence)
        page.until(f"document.querySelector('{answer}').getBoundingClientRect().top < 320")
        assert page.focus == "text"


def test_reduced_motion_is_respected_and_an_answer_in_view_does_not_scroll(page, student):
    page.prefer(prefers_reduced_motion="reduce")
    page.resize(1200, 900)
    page.ask(student, ONE)
    page.run("new Promise(requestAnimationFrame)")
    assert page.run("scrollY") == 0
    assert set(page.all("*", "parseFloat(getComputedStyle(one).transitionDuration)")) == {0}
    assert page.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_small_shares_can_be_read_and_seen(page, student):
    page.ask(student, "rare [MASK]")
    assert page.texts("#results .share") == ["99.9%", "0.71%", "0.04%", "0.0012%", "<0.001%"]
    assert all("3px" in size for size in page.all(ROWS, "getComputedStyle(one).backgroundSize"))


def test_the_documentation_shows_every_operation_and_tries_one_out(page, site):
    page.open(f"{site}/docs/")
    page.until("document.querySelectorAll('.opblock-summary-path').length > 0")
    paths = {text.replace("\u200b", "") for text in page.texts(".opblock-summary-path")}
    assert {"/v1/fill-mask", "/score", "/", "/healthz", "/readyz", "/info"} <= paths
    page.click("#operations-Service-info_info_get .opblock-summary-control")
    for button in (".try-out__btn", ".execute"):
        page.until(f"document.querySelector('{button}') !== null")
        page.click(button)
    status = ".live-responses-table tbody .response-col_status"
    page.until(f"document.querySelector('{status}')?.innerText.startsWith('200')")
    page.until("document.querySelector('.live-responses-table pre').innerText.includes('mask_token')")


def test_policy_violations_are_recorded_as_complaints(page, student):
    page.visit(student)
    page.run("document.body.setAttribute('style', 'color: red'); console.error('logged'); 0")
    wait_for(lambda: page.run("1") and len(page.complaints) == 2, "both are recorded")
    page.complaints.clear()
