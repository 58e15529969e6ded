"""The sections of a page that are about the article, not part of it: notes, references, lists of links."""

import re
from functools import cache

from distilray.corpus.wikitext.sites import ENGLISH, SITES, Site

_HEADING = re.compile(r"^(={1,6})(.+?)(={1,6})[ \t]*$", re.MULTILINE)
_TITLE_MARKUP = re.compile(r"'{2,}|\{\{[^{}]*\}\}|<[^<>]*>|\[\[|\]\]")


def cut_back_matter(wikitext: str, site: Site = ENGLISH) -> str:
    """`wikitext` without the sections of back matter and what is below them; `cut_extensions` goes before.

    They are cut before the page is parsed: a tenth of a page is theirs, and so are most of its unclosed braces.
    """
    titles = _titles(site.language)
    kept: list[str] = []
    at = 0  # what is before is kept or cut already
    skip_level = 0  # level of the heading whose section is being cut, 0 for none
    for heading in _HEADING.finditer(wikitext):
        level = min(len(heading[1]), len(heading[3]))
        if skip_level and level > skip_level:
            continue
        title = " ".join(_TITLE_MARKUP.sub("", heading[2]).strip("= ").lower().split())
        is_back_matter = title in titles
        if skip_level:
            at = heading.start()
        if is_back_matter:
            kept.append(wikitext[at : heading.start()])
        skip_level = level if is_back_matter else 0
    if not skip_level:
        kept.append(wikitext[at:])
    return "".join(kept)


@cache
def _titles(language: str) -> frozenset[str]:
    local = Site(language).data.get("back_matter", [])
    return frozenset(title.lower() for title in [*SITES["back_matter"], *local])
