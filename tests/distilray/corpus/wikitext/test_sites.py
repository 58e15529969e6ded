import pytest

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


def test_the_names_of_a_namespace_come_from_the_dump() -> None:
    site = Site("xx", {FILE: "Datoteka"})
    assert clean_wikitext("[[Datoteka:a.jpg|thumb|b]]Words.", site) == "Words."
