# ruff: noqa: RUF001 - letters of other scripts are the subject here

import re

import pytest

from distilray.corpus.wikitext.arguments import UNKNOWN_PATTERN, unknown_names
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.corpus.wikitext.sites import ENGLISH, FILE, Site

GERMAN = Site("de", {6: "Datei", 14: "Kategorie"})


@pytest.mark.parametrize(
    ("site", "prefix", "number"),
    [
        (ENGLISH, "File", 6),
        (ENGLISH, "image", 6),
        (ENGLISH, "User_talk", 3),
        (ENGLISH, "WP", 4),
        (ENGLISH, "Datei", None),
        (ENGLISH, "CSI", None),
        (GERMAN, "Datei", 6),
        (GERMAN, "Bild", 6),
        (GERMAN, "Category", 14),
        (Site("xx", {6: "Datoteka", 0: ""}), "datoteka", 6),
        (Site("xx", {6: "Datoteka", 0: ""}), "", None),
    ],
)
def test_a_namespace_has_its_local_name_its_canonical_name_and_aliases(
    site: Site, prefix: str, number: int | None
) -> None:
    assert site.namespace_of(prefix) == number


def shown(wikitext: str, site: Site) -> str:
    text = clean_wikitext(wikitext, site)
    return re.sub(UNKNOWN_PATTERN, lambda mark: f"{{{{{unknown_names(mark[0])[0]}}}}}", text)


# A page of a wiki, and what is read of it.
PAGES = {
    "de": (
        "[[Bild:a.jpg|mini|Ein [[Hund]]]]'''München''' ({{IPA|de|a}}, {{enS|Munich}}) ist groß.{{Beleg}} {{\"|Ja}}, "
        "sagte er {{Höhe|12}} dort.{{Unbekannt|x}}\n\n__INHALTSVERZEICHNIS__\n== Einzelnachweise ==\nText.\n"
        "[[Kategorie:Stadt]][[en:Munich]]",
        "München (englisch Munich) ist groß. „Ja“, sagte er {{Höhe}} dort.",
    ),
    "fr": (
        "'''Paris''' ({{API|a}}) est au {{s|XIX}} une ville : {{unité|12|km}}.{{Refnec|Elle est grande}}{{Quand}} !\n"
        "[[Fichier:a.jpg|b]][[Catégorie:X]]\n== Voir aussi ==\nRien.",
        "Paris est au XIXe siècle une ville : 12 km.Elle est grande !",
    ),
    "es": (
        "[[Archivo:a.jpg|b]]'''Madrid''' ({{AFI|a}}) mide {{unidad|12|km}}.{{cita requerida}} Es [[grande]].\n"
        "__SIN_TDC__\n== Véase también ==\nNada.",
        "Madrid mide 12 km. Es grande.",
    ),
    "ru": (
        "'''Москва''' ({{lang-en|Moscow}}) — город{{нет АИ|2}}, {{нп5|Кремль|кремль|en|Kremlin}}.[[Файл:a.jpg|б]]\n"
        "__БЕЗ_ОГЛАВЛЕНИЯ__\n== Примечания ==\nНет.",
        "Москва (Moscow) — город, кремль.",
    ),
    "ja": (
        "[[画像:a.jpg|thumb|b]]'''東京'''は{{仮リンク|新宿|en|Shinjuku}}がある。{{要出典}}大きい。\n== 脚注 ==\n無。",
        "東京は新宿がある。大きい。",
    ),
    "ar": (
        "'''القاهرة''' ({{إنج|Cairo}}) مدينة.{{بحاجة لمصدر}} [[ملف:a.jpg|ب]]وهي كبيرة.\n[[تصنيف:مدن]]",
        "القاهرة (بالإنجليزية: Cairo) مدينة. وهي كبيرة.",
    ),
    "hi": (
        "[[चित्र:a.jpg|thumb|b]]'''दिल्ली''' एक शहर है।{{उद्धरण आवश्यक}} यह बड़ा है।\n"
        "[[श्रेणी:शहर]]\n__अनुक्रम_नहीं__",
        "दिल्ली एक शहर है। यह बड़ा है।",
    ),
    "zh": (
        "-{H|zh-hans:a}--{zh-hans:计算机; zh-hant:電腦}-是-{机器}-。"
        "-{zh-tw:[[網路|網]];zh-cn:网}-很大。-{a=>zh-cn:b}-。-{半。",
        "计算机是机器。網很大。￼。￼半。",
    ),
}  # fmt: skip


@pytest.mark.parametrize("language", PAGES)
def test_a_page_in_another_language_is_cleaned(language: str) -> None:
    wikitext, expected = PAGES[language]
    assert shown(wikitext, Site(language)) == expected


def test_the_names_of_a_namespace_come_from_the_dump() -> None:
    site = Site("xx", {FILE: "Datoteka"})
    assert clean_wikitext("[[Datoteka:a.jpg|thumb|b]]Words.", site) == "Words."
