"""Wikitext into the words that a reader sees in running text.

Extension tags are cut out first, as MediaWiki does. What the rest shows becomes lines, and those of prose paragraphs.

Instructions to the software of the wiki: magic words such as `__NOTOC__`, and variants of a language.

The sections of a page that are about the article, not part of it: notes, references, lists of links.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache

from distilray.corpus.wikitext.arguments import GAP, HOLE, UNKNOWN, unknown_names
from distilray.corpus.wikitext.extensions import remove_extension_tags, restore_markup
from distilray.corpus.wikitext.paragraphs import prose
from distilray.corpus.wikitext.sites import ENGLISH, SITES, Site
from distilray.corpus.wikitext.templates import TemplateRules
from distilray.corpus.wikitext.visible_text import visible_text

_SWITCH = re.compile(r"__[^\s_](?:(?!__)\S){0,40}__")
_SWITCH_LINE = re.compile(rf"^[ \t]*(?:{_SWITCH.pattern}[ \t]*)++$", re.MULTILINE)
_MAGIC_WORDS = frozenset(f"__{word}__" for word in SITES["magic_words"].split())

_VARIANT = re.compile(r"-\{(?!\{)([^{}]{0,1000})\}-")
_FLAG = r"(?:[A-Z-]|[a-z]{2,8}(?:-[a-z]{2,8}){0,2})"  # a letter, or a language the variant is for
_FLAGS = re.compile(rf"\s*({_FLAG}(?:\s*;\s*{_FLAG})*)?\s*\|")
_HIDDEN_FLAGS = frozenset("HTN-")  # rules, the title, a name of a language
_NAMED = re.compile(r"[a-z]{2,8}(?:-[a-z]{2,8}){0,2}\s*:\s*([^;]*)")
_HALF_VARIANT = re.compile(r"-\{(?![{|])|(?<!\})\}-(?!\})")
_LANGUAGES_WITH_VARIANTS = frozenset(SITES["languages_with_variants"].split())


def remove_behavior_switches(wikitext: str) -> str:
    """`wikitext` without magic words, and without other words between underscores that are alone on their line."""
    if "__" not in wikitext:
        return wikitext
    wikitext = _SWITCH_LINE.sub("", wikitext)
    return _SWITCH.sub(lambda word: GAP if word[0] in _MAGIC_WORDS else word[0], wikitext)


def choose_variants(wikitext: str, site: Site) -> str:
    """`wikitext` with the first of the variants in each `-{zh-hans:...; zh-hant:...}-`."""
    if "-{" not in wikitext:
        return wikitext
    wikitext = _VARIANT.sub(_first_variant, wikitext)
    if site.language.partition("-")[0] in _LANGUAGES_WITH_VARIANTS:
        wikitext = _HALF_VARIANT.sub(HOLE, wikitext)
    return wikitext


def _first_variant(markup: re.Match[str]) -> str:
    content = markup[1]
    flags = _FLAGS.match(content)
    if flags is not None:
        content = content[flags.end() :]
        if not _HIDDEN_FLAGS.isdisjoint((flags[1] or "").replace(" ", "").split(";")):
            return GAP
    if "=>" in content:
        return HOLE
    named = _NAMED.match(content.strip())
    return named[1].strip() if named is not None else content


_HEADING = re.compile(r"^(={1,6})(.+?)(={1,6})[ \t]*$", re.MULTILINE)
_TITLE_MARKUP = re.compile(r"'{2,}|\{\{[^{}]*\}\}|<[^<>]*>|\[\[|\]\]")


def remove_back_matter(wikitext: str, site: Site = ENGLISH) -> str:
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


__all__ = ["HOLE", "OTHER_TEMPLATES", "UNKNOWN", "clean_wikitext", "count_templates", "unknown_names"]

OTHER_TEMPLATES = "(others)"
# Characters that serve as marks.
_RESERVED = re.compile("[\ufdd0\ue001-\ue006\ue100-\ue11f\U000f0000-\U000fffff]")
_MAX_TEMPLATES = 1000  # names that are counted, so that memory is bounded


def clean_wikitext(wikitext: str, site: Site = ENGLISH, templates: Mapping[str, str] = {}) -> str:
    """The prose of a page: paragraphs with a blank line between, without lists, tables, headings and references.

    A sentence that shows something the page alone does not tell contains a mark, so that the caller can drop it: `HOLE`
    for a formula, code or a price of today; for a template without a rule its name, which `unknown_names` returns.

    Args:
        wikitext: of the page.
        site: the wiki.
        templates: the user's rules by name of the template: `nothing`, `drop sentence` or a format such as "{1} {2}".
    """
    rules = _rules(site, tuple(templates.items()))
    text = choose_variants(remove_behavior_switches(remove_extension_tags(_without_reserved(wikitext))), site)
    return restore_markup(prose(visible_text(remove_back_matter(text, site), site, rules)))


def _without_reserved(wikitext: str) -> str:
    """`wikitext` without the characters that serve as marks. To look for their first bytes is the fastest test."""
    data = wikitext.encode(errors="replace")
    return _RESERVED.sub("", wikitext) if any(byte in data for byte in (b"\xee", b"\xef\xb7", b"\xf3")) else wikitext


@lru_cache(maxsize=16)
def _rules(site: Site, templates: tuple[tuple[str, str], ...]) -> TemplateRules:
    return TemplateRules(site, dict(templates))


def count_templates(counts: Counter[str], uses: Mapping[str, int]) -> None:
    """Add `uses` of templates by name to `counts`. Names above a limit are counted together as `OTHER_TEMPLATES`."""
    for name, number in uses.items():
        is_counted = name in counts or len(counts) < _MAX_TEMPLATES
        counts[name if is_counted else OTHER_TEMPLATES] += number
