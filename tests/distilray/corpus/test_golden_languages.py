"""Pages of seven Wikipedias, and the visible text of the rendered page with one sentence per line."""

from pathlib import Path

import pytest

from distilray.corpus.quality import count_holes, count_residue, per_thousand
from distilray.corpus.sentences import split_sentences
from distilray.corpus.wikitext.arguments import HOLE, UNKNOWN
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.corpus.wikitext.sites import Site
from distilray.corpus.writing_systems import count_words

GOLDEN = Path(__file__).parent / "golden_languages"
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


def sentences(language: str) -> list[str]:
    wikitext = (GOLDEN / f"{language}.wiki").read_text(encoding="utf-8")
    text = clean_wikitext(wikitext, Site(language, NAMESPACES[language]))
    return [one for one in split_sentences(text, language) if HOLE not in one and UNKNOWN not in one]


@pytest.mark.parametrize("language", NAMESPACES)
def test_a_page_gives_its_sentences(language: str) -> None:
    assert sentences(language) == (GOLDEN / f"{language}.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("language", NAMESPACES)
def test_the_sentences_of_a_page_hold_no_markup_and_no_hole(language: str) -> None:
    text = "\n".join(sentences(language))
    words = count_words(text.split("\n"))
    assert per_thousand(count_residue(text), words) < 0.05
    assert per_thousand(count_holes(text, language), words) < 0.05
