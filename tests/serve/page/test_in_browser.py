"""The page in a real browser, with the real application if the model's answers matter, else with a fake service."""

from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.serve.page.browser import ROWS, WORDS
from tests.serve.page.fake_service import KEY, MARKUP, STUDENT, TEACHER, FakeService
from tests.serve.server_thread import listening
from tests.serve.waiting import wait_for

pytestmark = pytest.mark.slow
ONE, TWO = "Paris is [MASK] of France", "The [MASK] of the [MASK]"

# The real application


def test_a_sentence_shows_the_models_candidates_as_bars(page, site, model):
    page.ask(site, "Paris is [MASK] of france")
    candidates = model.fill(["Paris is [MASK] of france"], top_k=5)[0][0]
    scores = [candidate.score for candidate in candidates]
    assert page.texts(WORDS) == [candidate.token_str for candidate in candidates]
    shares = [float(text.rstrip("%")) / 100 for text in page.texts("#results .share")]
    assert shares == pytest.approx(scores, abs=6e-4)
    assert page.all(ROWS, "Number(one.style.getPropertyValue('--share'))") == pytest.approx(scores, abs=1e-6)
    assert model.revision[:12] in page.text("#facts")
    assert "tiny" in page.text("#facts")
    for words in ("ms round trip", "ms in the queue", "ms in the model"):
        assert words in page.text(".times")
    assert page.text("#status").startswith("Most likely: ")


def test_a_sentence_without_a_blank_shows_an_alert_with_the_fix(page, site):
    page.ask(site, "paris is the capital")
    alert = page.text("[role=alert]")
    assert alert.startswith("No mask token; write [MASK] where a word is wanted")
    assert "press Insert" in alert
    assert "Request id" in alert
    assert "Try again" not in alert
    assert page.texts(ROWS) == []


def test_targets_and_number_of_candidates_are_sent(page, site):
    page.visit(site)
    page.click("#targets")
    page.type(" Paris, rome ,,berlin")
    page.value("#count", "3")
    page.send("[MASK] is big")
    assert sorted(page.texts(WORDS)) == ["berlin", "paris", "rome"]


# Blanks


def test_every_notation_for_a_blank_is_sent_as_the_mask_token(page, student):
    page.visit(student)
    for typed, sent in (
        ("A ___ and a ____________.", "A [MASK] and a [MASK]."),
        ("(___) “___”, ___/___", "([MASK]) “[MASK]”, [MASK]/[MASK]"),
        ("a <mask>, a [mask], a <MASK>, a [MASK]", "a [MASK], a [MASK], a [MASK], a [MASK]"),
        ("[MASK] snake_case __init__ a___b ___c é___ _ __", "[MASK] snake_case __init__ a___b ___c é___ _ __"),
    ):
        page.send(typed)
        assert student.bodies[-1]["inputs"] == sent == page.sentence


def test_masks_are_written_at_the_selection_and_the_caret_stays_in_the_sentence(page, student):
    page.visit(student)
    page.write("A ___ is here")
    page.run("document.querySelector('#text').setSelectionRange(8, 8)")
    page.press("Enter")
    page.wait_for_rows(len(STUDENT))
    page.type("!")
    assert page.sentence == "A [MASK] is! here"
    page.run("document.querySelector('#text').setSelectionRange(9, 17)")
    page.click("#insert")
    assert (page.sentence, page.focus) == ("A [MASK] [MASK]", "text")


# Filling


def test_a_click_fills_the_blank_and_another_click_replaces_the_word(page, student):
    page.ask(student, ONE)
    for row, word in ((1, "city"), (2, "heart")):
        page.click(ROWS, row)
        assert page.sentence == f"Paris is {word} of France"
        assert page.texts("[aria-current=true] .word") == [word]
    page.click("#undo")
    assert page.sentence == ONE
    assert page.texts("[aria-current=true]") == []
    assert page.run("document.querySelector('#undo').disabled")


def test_remaining_blanks_are_queried_again_and_each_filling_can_be_undone(page, student):
    page.ask(student, TWO)
    assert page.texts(".blank h3") == ["Blank 1", "Blank 2"]
    assert page.texts(".context") == ["The 1 of the __", "The __ of the 2"]
    before = len(student.bodies)
    page.click(ROWS, len(STUDENT))
    page.wait_for_rows(len(STUDENT))
    assert page.sentence == "The [MASK] of the capital"
    assert [body["inputs"] for body in student.bodies[before:]] == ["The [MASK] of the capital"]
    page.click(ROWS, 1)
    assert page.sentence == "The city of the capital"
    page.click("#undo")
    page.click("#undo")
    assert page.sentence == TWO
    page.wait_for_rows(2 * len(STUDENT))


def test_a_word_piece_is_joined_to_the_preceding_word_and_markup_stays_text(page, student):
    page.ask(student, "The Cat [MASK] are here")
    page.click(ROWS, 4)
    assert page.sentence == "The Cats are here"
    page.send("markup [MASK]")
    assert page.texts(WORDS) == [MARKUP[0][0]]
    assert page.run("document.querySelectorAll('#results img').length") == 0


def test_changing_the_number_of_candidates_sends_the_query_again(page, student):
    page.ask(student, ONE)
    assert student.bodies[-1] == {"inputs": ONE, "parameters": {"top_k": 5}}  # a single model is not named
    page.value("#count", "10")
    page.run("document.querySelector('#count').dispatchEvent(new Event('change'))")
    body = {"inputs": ONE, "parameters": {"top_k": 10}}
    wait_for(lambda: student.bodies[-1] == body, "the request for ten candidates arrives")
    page.wait_for_answer()


def test_candidates_of_a_changed_sentence_are_not_filled_in(page, student):
    page.ask(student, ONE)
    page.type(" Yes.")
    page.click(ROWS)
    assert page.sentence == f"{ONE} Yes."
    assert "press Find words" in page.text("#status")


def test_the_page_is_usable_with_the_keyboard_only(page, student):
    page.visit(student)
    page.press("Tab")
    page.press("Tab")
    assert page.focus == "text"
    page.type(TWO)
    page.press("Enter")
    page.wait_for_rows(2 * len(STUDENT))
    for _ in range(20):
        page.press("Tab")
        if page.run(f"document.activeElement.matches('{ROWS}')"):
            break
    page.press("ArrowDown")
    assert page.focus.startswith("city")
    page.press("Enter")
    page.wait_for_rows(len(STUDENT))
    page.until(f"document.activeElement === document.querySelector('{ROWS}')")
    page.press("Enter")
    assert page.sentence == "The city of the capital"
    assert page.focus.startswith("capital")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# Several models


def test_models_are_shown_side_by_side_and_queried_by_name(page, pair):
    before = len(pair.bodies)
    page.ask(pair, ONE)
    assert page.texts(".column h2") == ["teacher", "student"]
    assert page.texts(WORDS) == [word for word, _ in TEACHER + STUDENT]
    assert sorted(body["model"] for body in pair.bodies[before:]) == ["student", "teacher"]
    left, right = page.all(".column", "one.getBoundingClientRect().x")
    assert right > left + 200
    assert "3 of 5 candidates in common" in page.text("#status")
    assert page.text(".times").endswith("revision 3f2a91c0d4e5")


def test_a_failing_model_does_not_affect_the_answer_of_the_other(page, pair):
    page.ask(pair, "half of a [MASK]")
    assert page.texts(WORDS) == [word for word, _ in STUDENT]
    assert page.text("[role=alert] strong") == "teacher: The model is not ready"
    assert page.texts(".times")[0] == "No answer."


# Links and mount points


def test_a_link_restores_the_query_and_its_answer(page, browser, student):
    page.visit(student)
    page.click("#targets")
    page.type("city, heart")
    page.value("#count", "10")
    page.send("A & b # [MASK]?")
    address = page.run("location.href")
    assert parse_qs(urlsplit(address).fragment) == {"text": ["A & b # [MASK]?"], "k": ["10"], "targets": ["city,heart"]}
    other = browser.page()
    other.open(address)
    other.until(f"document.querySelectorAll('{ROWS}').length > 0")
    assert other.sentence == "A & b # [MASK]?"
    other.close()
    parameters = {"top_k": 10, "targets": ["city", "heart"]}
    assert student.bodies[-2:] == [{"inputs": "A & b # [MASK]?", "parameters": parameters}] * 2


def test_the_page_works_below_a_path_of_another_application(page):
    outside = Starlette(routes=[Mount("/models/fill", FakeService("student").api)])
    with listening(outside) as address:
        for path in ("/ui", "/ui/"):
            page.ask(f"{address}/models/fill", ONE, path)
            assert page.texts(WORDS) == [word for word, _ in STUDENT]


def test_the_link_is_copied_or_shown_for_copying(page, student):
    page.ask(student, ONE)
    page.run("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }; 0")
    page.click("#copy")
    page.until("window.copied === location.href")
    page.run("navigator.clipboard.writeText = () => Promise.reject(new Error('not here')); 0")
    page.click("#copy")
    page.until("!document.querySelector('#link').hidden")
    assert page.run("document.querySelector('#link').value === location.href")


# Errors


def test_an_empty_sentence_is_reported_and_not_sent(page, student):
    page.visit(student)
    before = len(student.bodies)
    for empty in ("", "  "):
        page.value("#text", empty)
        page.click("#form .primary")
        assert page.focus == "text"
    assert "Write a sentence" in page.text("#status")
    assert len(student.bodies) == before


def test_a_busy_service_shows_when_to_try_again(page, student):
    page.ask(student, "busy [MASK]")
    alert = page.text("[role=alert]")
    assert alert.startswith("64 requests are being worked on")
    assert "Try again in 7 seconds." in alert
    assert "request-7" in alert
    before = len(student.bodies)
    page.click("#problem button")
    wait_for(lambda: len(student.bodies) == before + 1, "the request is sent again")
    page.until("document.querySelector('#problem strong') !== null")


def test_another_or_no_server_is_reported(page):
    with listening(FakeService("student").api) as address:
        page.ask(address, "page [MASK]")
        assert page.text("[role=alert] strong") == "The service answered with status 502."
    page.write(ONE)
    page.press("Enter")
    page.until("document.querySelector('[role=alert] strong')?.innerText === 'The service cannot be reached.'")


def test_a_slow_answer_is_announced_and_a_new_query_cancels_it(page, student):
    page.visit(student)
    page.run(
        "window.announced = []; const status = document.querySelector('#status');"
        "new MutationObserver(() => announced.push(status.innerText)).observe(status, {childList: true}); 0"
    )
    page.send("slow [MASK]")
    page.until("announced.length === 2")
    assert page.run("announced[0]").startswith("Waiting")
    page.write("slow [MASK] [MASK]")
    page.press("Enter")
    wait_for(lambda: student.bodies[-1]["inputs"] == "slow [MASK] [MASK]", "the first question arrives")
    page.send(ONE)
    page.run("new Promise(done => setTimeout(done, 1100))")
    assert len(page.texts(ROWS)) == len(STUDENT)
    assert page.text("[role=alert]") == ""


def test_a_key_is_requested_sent_and_kept_only_in_the_tab(page):
    with listening(FakeService("student", key=KEY).api) as address:
        page.visit(address)
        page.until("document.activeElement.id === 'key'")
        page.write(ONE)
        page.press("Enter")
        page.until("document.activeElement.id === 'key'")
        for wrong, message in (("schlüssel", "of ASCII"), ("another", "did not accept this key")):
            page.run("document.querySelector('#key').select()")
            page.type(wrong)
            page.press("Enter")
            page.until(f"document.querySelector('[role=alert]').innerText.includes('{message}')")
        page.type(KEY)
        page.press("Enter")
        page.wait_for_rows(len(STUDENT))
        assert page.run("document.querySelector('#access').hidden")
        assert page.run("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert KEY not in page.run("location.href + document.documentElement.outerHTML")
        page.click("#forget")
        assert page.run("sessionStorage.length") == 0
