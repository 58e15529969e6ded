from dataclasses import replace

import pytest

from distilray.config.corpus import FilterConfig
from distilray.corpus.filters import PAGE_REASONS, TEXT_REASONS, page_drop_reason, text_drop_reason
from distilray.corpus.wikipedia import Page

ARTICLE = Page(page_id=1, revision_id=2, namespace=0, title="Dog", redirect=False, text="The '''dog''' is an animal.")
PAGES = {
    "not_an_article": [replace(ARTICLE, namespace=4)],
    "redirect": [replace(ARTICLE, redirect=True), replace(ARTICLE, text=" #REDIRECT [[Hound]]")],
    "page_too_large": [replace(ARTICLE, text="", oversized=True)],
    "disambiguation": [
        replace(ARTICLE, title="Dog (disambiguation)"),
        replace(ARTICLE, text="'''Dog''' may be:\n* x\n{{disambiguation}}"),
        replace(ARTICLE, text="'''Dog''' may be:\n* x\n{{Disambig|geo}}"),
        replace(ARTICLE, text="'''Dog''' may be:\n* x\n{{hndis|Dog}}"),
    ],
}
TEXTS = {
    "too_few_sentences": ["Only one sentence that is long enough."],
    "too_short": ["Short one.", "Two."],
    "too_few_letters": ["1 2 3 4 5 6 7.", "8 9 10 11 a."],
}
CONFIG = FilterConfig(min_words=5, min_sentences=2, min_letter_fraction=0.5)


@pytest.mark.parametrize(("reason", "page"), [(reason, page) for reason, pages in PAGES.items() for page in pages])
def test_a_page_is_dropped_for_its_reason(reason: str, page: Page) -> None:
    assert page_drop_reason(page) == reason


@pytest.mark.parametrize("reason", TEXTS)
def test_a_text_is_dropped_for_its_reason(reason: str) -> None:
    assert text_drop_reason(TEXTS[reason], CONFIG) == reason


def test_every_reason_has_a_case_here() -> None:
    assert {name for name, _ in PAGE_REASONS} == set(PAGES)
    assert {name for name, _ in TEXT_REASONS} == set(TEXTS)


def test_an_article_is_kept() -> None:
    assert page_drop_reason(ARTICLE) is None
    assert text_drop_reason(["The dog is an animal.", "It barks."], CONFIG) is None


def test_an_article_about_disambiguation_is_kept() -> None:
    assert page_drop_reason(replace(ARTICLE, text="{{about|dogs|cats|Cat (disambiguation)}} Words.")) is None


def test_limits_of_zero_keep_an_empty_text() -> None:
    assert text_drop_reason([], FilterConfig(min_words=0, min_sentences=0, min_letter_fraction=0)) is None
