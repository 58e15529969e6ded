"""The sections of a page that are about the article, not part of it: notes, references, lists of links."""

import re

_HEADING = re.compile(r"^(={1,6})(.+?)(={1,6})[ \t]*$", re.MULTILINE)
_TITLE_MARKUP = re.compile(r"'{2,}|\{\{[^{}]*\}\}|<[^<>]*>|\[\[|\]\]")
_BACK_MATTER = {
    "bibliography", "citations", "citations and notes", "citations and references", "cited works", "endnotes",
    "explanatory notes", "external link", "external links", "footnotes", "footnotes and references", "further reading",
    "further reading and external links", "general references", "literature cited", "notes", "notes and citations",
    "notes and references", "references", "references and external links", "references and further reading",
    "references and notes", "references and sources", "see also", "selected bibliography", "sources",
    "sources and references", "works cited",
}  # fmt: skip


def cut_back_matter(wikitext: str) -> str:
    """`wikitext` without the sections of back matter and what is below them; `cut_extensions` goes before.

    They are cut before the page is parsed: a tenth of a page is theirs, and so are most of its unclosed braces.
    """
    kept: list[str] = []
    at = 0  # what is before is kept or cut already
    skip_level = 0  # level of the heading whose section is being cut, 0 for none
    for heading in _HEADING.finditer(wikitext):
        level = min(len(heading[1]), len(heading[3]))
        if skip_level and level > skip_level:
            continue
        title = " ".join(_TITLE_MARKUP.sub("", heading[2]).strip("= ").lower().split())
        is_back_matter = title in _BACK_MATTER
        if skip_level:
            at = heading.start()
        if is_back_matter:
            kept.append(wikitext[at : heading.start()])
        skip_level = level if is_back_matter else 0
    if not skip_level:
        kept.append(wikitext[at:])
    return "".join(kept)
