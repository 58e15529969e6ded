# ruff: noqa: RUF001 - dashes and signs of running text are the subject here

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.quality import count_holes, count_residue, per_thousand
from distilray.corpus.sentences import split_sentences
from distilray.corpus.wikitext.arguments import GAP, HOLE, UNKNOWN, UNKNOWN_PATTERN, unknown_names
from distilray.corpus.wikitext.cleaning import clean_wikitext, remove_back_matter
from distilray.corpus.wikitext.extensions import remove_extension_tags, restore_markup
from distilray.corpus.wikitext.number_templates import quantity_text, superscript
from distilray.corpus.wikitext.sites import Site
from distilray.corpus.wikitext.templates import RULES
from distilray.corpus.writing_systems import count_words

GOLDEN = (
    Path(__file__).parent / "golden"
)  # NAME.wiki is a page of the English Wikipedia, NAME.de.wiki of the German one
# Pages of seven Wikipedias, and the visible text of the rendered page with one sentence per line.
GOLDEN_LANGUAGES = Path(__file__).parent / "golden_languages"

# Pages that are not well-formed or end with back matter, and their text; others are in golden/rules.wiki.
PAGES = {
    "unbalanced quotes": ("a ''b c", "a b c"),
    "back matter": ("a\n== ''See also'' ==\nprose\n=== Sub ===\nmore\n== Next ==\nb", "a\n\nb"),
    "an unclosed table": ("a\n\n{|\n| b\n|-\n| c", "a"),
    "an unclosed template": ("Good.\n\nBad {{x|y. No end.\n\nFine.", "Good.\n\nFine."),
    "an unclosed reference": ("a.<ref>b c\nd", "a. d"),
    "a reference that is never closed inside a sentence": ("a<ref>b c\nd", f"a{HOLE} d"),
    "the list of references": ("a\n<references>\n<ref>b</ref>\n</references>", "a"),
    "an unclosed comment": ("a <!-- b c", "a"),
    "an unclosed tag": ("a <small>b", "a b"),
    "a page of nothing": ("", ""),
}


def without_placeholders(text: str) -> str:
    """Return the text with `{{name}}` in place of the encoded names of unknown templates."""
    return re.sub(UNKNOWN_PATTERN, lambda mark: f"{{{{{unknown_names(mark[0])[0]}}}}}", text)


@pytest.mark.parametrize("construct", sorted(file.stem for file in GOLDEN.glob("*.wiki")))
def test_a_construct_is_cleaned_to_its_golden_text(construct: str) -> None:
    wikitext = (GOLDEN / f"{construct}.wiki").read_text(encoding="utf-8")
    expected = (GOLDEN / f"{construct}.txt").read_text(encoding="utf-8")
    site = Site(construct.partition(".")[2] or "en")
    assert without_placeholders(clean_wikitext(wikitext, site)) == expected.removesuffix("\n")


@pytest.mark.parametrize("page", PAGES)
def test_a_malformed_page_is_cleaned(page: str) -> None:
    wikitext, expected = PAGES[page]
    assert clean_wikitext(wikitext) == expected


def test_clean_text_is_unchanged() -> None:
    text = 'One sentence, with (an aside) and "quotes"; and 3.5 km.\n\nAnother paragraph: 10–20 of them!'
    assert clean_wikitext(text) == text


@pytest.mark.parametrize("piece", ["<ref>", "{{", "[[", "<math>", "'''", "{|\n", "<!--", "]]", "}}", "<nowiki>"])
def test_a_thousand_unclosed_marks_leave_no_markup(piece: str) -> None:
    assert count_residue(clean_wikitext(piece * 1000 + "\n\nThe end.\n")) == 0


@given(st.lists(st.sampled_from([*"[]{}|='<>/!*#:;&\n a", "[[", "]]", "{{", "}}", "''", "ref", "nowrap", "&#xD800;"])))
def test_any_text_is_cleaned_into_text_that_can_be_stored(pieces: list[str]) -> None:
    clean_wikitext("".join(pieces)).encode()


# As the siteinfo of the dump of each language names its namespaces.
NAMESPACES = {
    "ar": {6: "ملف", 10: "قالب", 14: "تصنيف"},
    "de": {6: "Datei", 10: "Vorlage", 14: "Kategorie"},
    "es": {6: "Archivo", 10: "Plantilla", 14: "Categoría"},
    "fr": {6: "Fichier", 10: "Modèle", 14: "Catégorie"},
    "hi": {6: "चित्र", 10: "साँचा", 14: "श्रेणी"},
    "ja": {6: "ファイル", 10: "Template", 14: "Category"},
    "ru": {6: "Файл", 10: "Шаблон", 14: "Категория"},
}


@pytest.mark.parametrize("language", NAMESPACES)
def test_a_page_in_another_language_is_cleaned_to_sentences_without_markup_and_holes(language: str) -> None:
    wikitext = (GOLDEN_LANGUAGES / f"{language}.wiki").read_text(encoding="utf-8")
    text = clean_wikitext(wikitext, Site(language, NAMESPACES[language]))
    sentences = [each for each in split_sentences(text, language) if HOLE not in each and UNKNOWN not in each]
    assert sentences == (GOLDEN_LANGUAGES / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    words, cleaned = count_words(sentences), "\n".join(sentences)
    assert per_thousand(count_residue(cleaned), words) < 0.05
    assert per_thousand(count_holes(cleaned, language), words) < 0.05


def test_a_quotation_is_a_paragraph_of_its_own() -> None:
    assert clean_wikitext("He said: {{quote|Go away.|Author}} Then he left.") == "He said:\n\nGo away.\n\nThen he left."


def test_every_rule_accepts_a_template_without_arguments() -> None:
    for name in RULES:
        clean_wikitext(f"a {{{{{name}}}}} b {{{{{name}|}}}} c")


@pytest.mark.parametrize("arguments", [[], [""], ["x"], ["5"], ["5", "to"], ["5", "to", "km"], ["1/2", "in"]])
def test_a_quantity_accepts_odd_arguments(arguments: list[str]) -> None:
    assert isinstance(quantity_text(arguments, adjective=True), str)


def test_a_superscript_is_raised_whole_or_not_at_all() -> None:
    assert [superscript(text) for text in ("-12", "th", "2x")] == ["⁻¹²", "th", "2x"]


@pytest.mark.parametrize("title", ["See also", "''References''", "notes and references", "External links {{anchor|x}}"])
def test_back_matter_is_removed_with_the_sections_below_it(title: str) -> None:
    wikitext = f"a\n== {title} ==\nb\n=== Below ===\nc\n== Next ==\nd"
    assert remove_back_matter(wikitext) == "a\n== Next ==\nd"


@given(st.lists(st.sampled_from(["== Life ==\n", "=== Notes on it ===\n", "words\n", "=\n", "a == b\n"])).map("".join))
def test_a_page_without_back_matter_is_unchanged(wikitext: str) -> None:
    assert remove_back_matter(wikitext) == wikitext


def test_an_unclosed_reference_takes_no_words_of_the_next_line() -> None:
    assert remove_extension_tags("a.<ref>b\nc<ref>d</ref> e") == f"a.\nc{GAP} e"


@given(st.text(alphabet="'*#[]{}|ab "))
def test_text_protected_by_nowiki_is_restored(content: str) -> None:
    cut = remove_extension_tags(f"<nowiki>{content}</nowiki>")
    assert restore_markup(cut) in (content, HOLE)
