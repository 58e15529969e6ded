"""The page in a real browser: over the real application where the model's answers matter, over a stand-in elsewhere."""

from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI

from tests.serve.page.fake_service import KEY, STUDENT, TEACHER, FakeService
from tests.serve.page.page_actions import ONE, ROWS, TWO, WORDS, ask, focus_of, opened, rows, sentence_of, write
from tests.serve.server_thread import listening
from tests.serve.waiting import wait_for

pytestmark = pytest.mark.slow

# The real application


def test_a_sentence_shows_the_models_candidates_as_bars(page, site, model):
    ask(page, site, "Paris is [MASK] of france")
    candidates = model.fill(["Paris is [MASK] of france"], top_k=5)[0][0]
    assert page.texts(WORDS) == [candidate.token_str for candidate in candidates]
    shown = [float(text.rstrip("%")) / 100 for text in page.texts("#results .share")]
    assert shown == pytest.approx([candidate.score for candidate in candidates], abs=6e-4)
    bars = page.run(
        f"[...document.querySelectorAll('{ROWS}')].map(row => Number(row.style.getPropertyValue('--share')))"
    )
    assert bars == pytest.approx([candidate.score for candidate in candidates], abs=1e-6)
    assert model.revision[:12] in page.text("#facts")
    assert "tiny" in page.text("#facts")
    times = page.text(".times")
    assert all(words in times for words in ("ms round trip", "ms in the queue", "ms in the model"))
    assert page.text("#status").startswith("Most likely: ")


def test_a_sentence_without_a_blank_is_an_alert_that_tells_the_fix(page, site):
    ask(page, site, "paris is the capital")
    alert = page.text("[role=alert]")
    assert alert.startswith("No mask token; write [MASK] where a word is wanted")
    assert "press Insert" in alert
    assert "Request id" in alert
    assert page.texts(ROWS) == []
    assert "Try again" not in alert


def test_the_words_that_are_allowed_and_their_number_are_asked_for(page, site):
    opened(page, site)
    page.click("#targets")
    page.type(" Paris, rome ,,berlin")
    page.run("document.querySelector('#count').value = '3'")
    write(page, "[MASK] is big")
    page.press("Enter")
    rows(page, 3)
    assert sorted(page.texts(WORDS)) == ["berlin", "paris", "rome"]


# Blanks


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("A ___ and a ____________.", "A [MASK] and a [MASK]."),
        ("(___) “___”, ___/___", "([MASK]) “[MASK]”, [MASK]/[MASK]"),
        ("a <mask>, a [mask], a <MASK>, a [MASK]", "a [MASK], a [MASK], a [MASK], a [MASK]"),
        ("[MASK] snake_case __init__ a___b ___c é___ _ __", "[MASK] snake_case __init__ a___b ___c é___ _ __"),
    ],
)
def test_every_notation_for_a_blank_is_sent_as_the_mask_token(page, student, typed, sent):
    ask(page, student, typed)
    assert student.bodies[-1]["inputs"] == sent == sentence_of(page)


def test_writing_a_mask_token_keeps_the_caret_in_the_sentence(page, student):
    opened(page, student)
    write(page, "A ___ is here")
    page.run("document.querySelector('#text').setSelectionRange(8, 8)")
    page.press("Enter")
    rows(page, len(STUDENT))
    page.type("!")
    assert sentence_of(page) == "A [MASK] is! here"


# Filling


def test_a_click_fills_the_blank_and_another_click_fills_it_otherwise(page, student):
    ask(page, student, ONE)
    page.click(ROWS, 1)
    assert sentence_of(page) == "Paris is the city of France."
    page.click(ROWS, 2)
    assert sentence_of(page) == "Paris is the heart of France."
    assert page.texts("[aria-current=true] .word") == ["heart"]
    page.click("#undo")
    assert sentence_of(page) == ONE
    assert page.texts("[aria-current=true]") == []
    assert page.run("document.querySelector('#undo').disabled")


def test_the_blanks_that_remain_are_asked_again_and_each_filling_is_taken_back(page, student):
    ask(page, student, TWO)
    assert page.texts(".blank h3") == ["Blank 1", "Blank 2"]
    assert page.texts(".context") == ["The 1 of the __", "The __ of the 2"]
    before = len(student.bodies)
    page.click(ROWS, len(STUDENT))
    rows(page, len(STUDENT))
    assert sentence_of(page) == "The [MASK] of the capital"
    assert [body["inputs"] for body in student.bodies[before:]] == ["The [MASK] of the capital"]
    page.click(ROWS, 1)
    assert sentence_of(page) == "The city of the capital"
    page.click("#undo")
    page.click("#undo")
    assert sentence_of(page) == TWO
    rows(page, 2 * len(STUDENT))


def test_a_piece_of_a_word_is_joined_to_the_word_before_it(page, student):
    ask(page, student, "The Cat [MASK] are here")
    page.click(ROWS, 4)
    assert sentence_of(page) == "The Cats are here"


def test_a_word_that_looks_like_markup_stays_text(page, student):
    ask(page, student, "markup [MASK]")
    assert page.texts(WORDS) == ["<img src=x onerror=alert(1)>"]
    assert page.run("document.querySelectorAll('#results img').length") == 0


def test_another_number_of_candidates_is_asked_for_at_once(page, student):
    ask(page, student, ONE)
    change = "count.value = '10'; count.dispatchEvent(new Event('change'))"
    page.run(f"(() => {{ const count = document.querySelector('#count'); {change}; }})()")
    wait_for(lambda: student.bodies[-1] == {"inputs": ONE, "parameters": {"top_k": 10}}, "ten are asked for")
    page.until("document.querySelector('#results').ariaBusy === 'false'")


def test_insert_puts_the_mask_in_the_place_of_the_selection(page, student):
    opened(page, student)
    write(page, "Paris is old")
    page.run("document.querySelector('#text').setSelectionRange(9, 12)")
    page.click("#insert")
    assert sentence_of(page) == "Paris is [MASK]"
    assert focus_of(page) == "text"


def test_candidates_of_a_sentence_that_was_changed_are_not_filled_in(page, student):
    ask(page, student, ONE)
    page.type(" Yes.")
    page.click(ROWS)
    assert sentence_of(page) == f"{ONE} Yes."
    assert "press Find words" in page.text("#status")


def test_the_keyboard_alone_is_enough(page, student):
    opened(page, student)
    page.press("Tab")
    page.press("Tab")
    assert focus_of(page) == "text"
    page.type(TWO)
    page.press("Enter")
    rows(page, 2 * len(STUDENT))
    for _ in range(20):
        page.press("Tab")
        if page.run(f"document.activeElement.matches('{ROWS}')"):
            break
    page.press("ArrowDown")
    assert focus_of(page).startswith("city")
    page.press("Enter")
    rows(page, len(STUDENT))
    page.until(f"document.activeElement === document.querySelector('{ROWS}')")
    page.press("Enter")
    assert sentence_of(page) == "The city of the capital"
    assert focus_of(page).startswith("capital")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# Several models


def test_models_stand_side_by_side_and_each_is_asked_by_name(page, pair):
    before = len(pair.bodies)
    ask(page, pair, ONE)
    assert page.texts(".column h2") == ["teacher", "student"]
    assert page.texts(WORDS) == [word for word, _ in TEACHER + STUDENT]
    assert sorted(body["model"] for body in pair.bodies[before:]) == ["student", "teacher"]
    left, right = page.run("[...document.querySelectorAll('.column')].map(one => one.getBoundingClientRect().x)")
    assert right > left + 200
    assert "3 of 5 candidates in common" in page.text("#status")
    assert page.text(".times").endswith("revision 3f2a91c0d4e5")


def test_one_model_alone_is_not_named_in_the_request(page, student):
    ask(page, student, ONE)
    assert student.bodies[-1] == {"inputs": ONE, "parameters": {"top_k": 5}}


def test_a_model_that_fails_leaves_the_other_ones_answer(page, pair):
    ask(page, pair, "half of a [MASK]")
    assert page.texts(WORDS) == [word for word, _ in STUDENT]
    assert page.text("[role=alert] strong") == "teacher: The model is not ready"
    assert page.texts(".times")[0] == "No answer."


# Links and places


def test_a_link_brings_back_the_question_and_its_answer(page, browser, student):
    opened(page, student)
    page.click("#targets")
    page.type("city, heart")
    page.run("document.querySelector('#count').value = '10'")
    write(page, "A & b # [MASK]?")
    page.press("Enter")
    page.until(f"document.querySelectorAll('{ROWS}').length > 0")
    address = page.run("location.href")
    assert parse_qs(urlsplit(address).fragment) == {"text": ["A & b # [MASK]?"], "k": ["10"], "targets": ["city,heart"]}
    other = browser.page()
    other.open(address)
    other.until(f"document.querySelectorAll('{ROWS}').length > 0")
    assert sentence_of(other) == "A & b # [MASK]?"
    asked = {"top_k": 10, "targets": ["city", "heart"]}
    assert student.bodies[-1] == {"inputs": "A & b # [MASK]?", "parameters": asked}
    other.close()


@pytest.mark.parametrize("path", ["/ui", "/ui/"])
def test_the_page_works_below_a_path_of_another_application(page, path):
    stand_in, outside = FakeService("student"), FastAPI()
    outside.mount("/models/fill", stand_in.api)
    with listening(outside) as address:
        ask(page, f"{address}/models/fill", ONE, path)
        assert page.texts(WORDS) == [word for word, _ in STUDENT]


def test_the_link_is_copied_or_shown_for_copying(page, student):
    ask(page, student, ONE)
    page.run("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }; 0")
    page.click("#copy")
    page.until("window.copied === location.href")
    page.run("navigator.clipboard.writeText = () => Promise.reject(new Error('not here')); 0")
    page.click("#copy")
    page.until("!document.querySelector('#link').hidden")
    assert page.run("document.querySelector('#link').value === location.href")


# What may go wrong


def test_an_empty_sentence_is_reported_and_not_sent(page, student):
    opened(page, student)
    before = len(student.bodies)
    for empty in ("", "  "):
        page.run(f"document.querySelector('#text').value = '{empty}'")
        page.click("#form .primary")
        assert focus_of(page) == "text"
    assert "Write a sentence" in page.text("#status")
    assert len(student.bodies) == before


def test_a_busy_service_says_when_to_try_again(page, student):
    ask(page, student, "busy [MASK]")
    alert = page.text("[role=alert]")
    assert alert.startswith("64 requests are being worked on")
    assert "Try again in 7 seconds." in alert
    assert "request-7" in alert
    before = len(student.bodies)
    page.click("#problem button")
    wait_for(lambda: len(student.bodies) == before + 1, "the request is sent again")
    page.until("document.querySelector('#problem strong') !== null")


def test_an_answer_that_is_not_of_the_service_is_told_by_its_status(page, student):
    ask(page, student, "page [MASK]")
    assert page.text("[role=alert] strong") == "The service answered with status 502."


def test_a_service_that_cannot_be_reached_is_told(page):
    gone = FakeService("student")
    with listening(gone.api) as address:
        opened(page, address)
    write(page, ONE)
    page.press("Enter")
    page.until("document.querySelector('#problem strong') !== null")
    assert page.text("[role=alert] strong") == "The service cannot be reached."


def test_a_new_question_ends_the_one_under_way(page, student):
    opened(page, student)
    write(page, "slow [MASK] [MASK]")
    page.press("Enter")
    wait_for(lambda: student.bodies and "slow" in student.bodies[-1]["inputs"], "the first question arrives")
    write(page, ONE)
    page.press("Enter")
    page.until("document.querySelector('#results').ariaBusy === 'false'")
    assert len(page.texts(ROWS)) == len(STUDENT)
    page.run("new Promise(done => setTimeout(done, 1100))")
    assert len(page.texts(ROWS)) == len(STUDENT)
    assert page.text("[role=alert]") == ""


def test_a_slow_answer_is_announced(page, student):
    opened(page, student)
    page.run(
        "window.announced = []; const status = document.querySelector('#status');"
        "new MutationObserver(() => announced.push(status.innerText)).observe(status, {childList: true}); 0"
    )
    write(page, "slow [MASK]")
    page.press("Enter")
    rows(page, len(STUDENT))
    page.until("announced.length === 2")
    assert page.run("announced[0]").startswith("Waiting")


def test_a_key_is_asked_for_sent_and_kept_by_the_tab_alone(page):
    locked = FakeService("student", key=KEY)
    with listening(locked.api) as address:
        opened(page, address)
        page.until("document.activeElement.id === 'key'")
        write(page, ONE)
        page.press("Enter")
        page.until("document.activeElement.id === 'key'")
        for wrong, said in (("schlüssel", "of ASCII"), ("another", "did not accept this key")):
            page.run("document.querySelector('#key').select()")
            page.type(wrong)
            page.press("Enter")
            page.until(f"document.querySelector('[role=alert]').innerText.includes('{said}')")
        page.type(KEY)
        page.press("Enter")
        rows(page, len(STUDENT))
        assert page.run("document.querySelector('#access').hidden")
        assert page.run("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert KEY not in page.run("location.href + document.documentElement.outerHTML")
        page.click("#forget")
        assert page.run("sessionStorage.length") == 0
