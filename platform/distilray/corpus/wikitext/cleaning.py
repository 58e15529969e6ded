"""Wikitext to prose.

As in MediaWiki, extension tags are removed before anything else is parsed. Behavior switches, language variants and
back matter are resolved next. The visible text of the rest is then assembled into paragraphs.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache

from distilray.corpus.wikitext.arguments import GAP, HOLE
from distilray.corpus.wikitext.extensions import remove_extension_tags, restore_markup
from distilray.corpus.wikitext.paragraphs import prose
from distilray.corpus.wikitext.sites import ENGLISH, SITES, Site
from distilray.corpus.wikitext.templates import TemplateRules
from distilray.corpus.wikitext.visible_text import visible_text

OTHER_TEMPLATES = "(others)"
# Characters that the cleaner uses as placeholders.
_RESERVED = re.compile("[\ufdd0\ue001-\ue006\ue100-\ue11f\U000f0000-\U000fffff]")
_MAX_TEMPLATES = 1000  # distinct names counted, to limit memory

_SWITCH = re.compile(r"__[^\s_](?:(?!__)\S){0,40}__")
_SWITCH_LINE = re.compile(rf"^[ \t]*(?:{_SWITCH.pattern}[ \t]*)++$", re.MULTILINE)
_MAGIC_WORDS = frozenset(f"__{word}__" for word in SITES["magic_words"].split())

_VARIANT = re.compile(r"-\{(?!\{)([^{}]{0,1000})\}-")
_FLAG = r"(?:[A-Z-]|[a-z]{2,8}(?:-[a-z]{2,8}){0,2})"  # a letter, or the language of the variant
_FLAGS = re.compile(rf"\s*({_FLAG}(?:\s*;\s*{_FLAG})*)?\s*\|")
_HIDDEN_FLAGS = frozenset("HTN-")  # conversion rules, page title, language name
_NAMED = re.compile(r"[a-z]{2,8}(?:-[a-z]{2,8}){0,2}\s*:\s*([^;]*)")
_HALF_VARIANT = re.compile(r"-\{(?![{|])|(?<!\})\}-(?!\})")
_LANGUAGES_WITH_VARIANTS = frozenset(SITES["languages_with_variants"].split())

_HEADING = re.compile(r"^(={1,6})(.+?)(={1,6})[ \t]*$", re.MULTILINE)
_TITLE_MARKUP = re.compile(r"'{2,}|\{\{[^{}]*\}\}|<[^<>]*>|\[\[|\]\]")


def clean_wikitext(wikitext: str, site: Site = ENGLISH, templates: Mapping[str, str] = {}) -> str:
    """Return the prose of a page as paragraphs separated by blank lines, without lists, tables, headings, references.

    A sentence whose text cannot be derived from the page contains a placeholder, so that the caller can drop it:
    `HOLE` for formulas, code and values computed when the page is viewed, or the encoded name of a template without a
    rule (see `unknown_names`).

    Args:
        wikitext: source text of the page.
        site: wiki that the page belongs to.
        templates: user rules by template name: `nothing`, `drop sentence` or a format such as "{1} {2}".
    """
    rules = _rules(site, tuple(templates.items()))
    text = choose_variants(remove_behavior_switches(remove_extension_tags(_without_reserved(wikitext))), site)
    return restore_markup(prose(visible_text(remove_back_matter(text, site), site, rules)))


def _without_reserved(wikitext: str) -> str:
    data = wikitext.encode(errors="replace")  # searching for their first bytes is the fastest test
    return _RESERVED.sub("", wikitext) if any(byte in data for byte in (b"\xee", b"\xef\xb7", b"\xf3")) else wikitext


@lru_cache(maxsize=16)
def _rules(site: Site, templates: tuple[tuple[str, str], ...]) -> TemplateRules:
    return TemplateRules(site, dict(templates))


def count_templates(counts: Counter[str], uses: Mapping[str, int]) -> None:
    """Add `uses` (by template name) to `counts`. Names beyond a limit are counted together as `OTHER_TEMPLATES`."""
    for name, number in uses.items():
        is_counted = name in counts or len(counts) < _MAX_TEMPLATES
        counts[name if is_counted else OTHER_TEMPLATES] += number


def remove_behavior_switches(wikitext: str) -> str:
    """Remove magic words, and other words in double underscores that are alone on their line."""
    if "__" not in wikitext:
        return wikitext
    wikitext = _SWITCH_LINE.sub("", wikitext)
    return _SWITCH.sub(lambda word: GAP if word[0] in _MAGIC_WORDS else word[0], wikitext)


def choose_variants(wikitext: str, site: Site) -> str:
    """Replace each `-{zh-hans:...; zh-hant:...}-` with its first variant."""
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


def remove_back_matter(wikitext: str, site: Site = ENGLISH) -> str:
    """Remove back-matter sections and their subsections. Extension tags must have been removed before.

    Runs before parsing, because back matter is a tenth of a page and contains most of its unclosed braces.
    """
    titles = _titles(site.language)
    kept: list[str] = []
    start = 0  # of the text that has not been processed
    skip_level = 0  # heading level of the section being removed, 0 for none
    for heading in _HEADING.finditer(wikitext):
        level = min(len(heading[1]), len(heading[3]))
        if skip_level and level > skip_level:
            continue
        title = " ".join(_TITLE_MARKUP.sub("", heading[2]).strip("= ").lower().split())
        is_back_matter = title in titles
        if skip_level:
            start = heading.start()
        if is_back_matter:
            kept.append(wikitext[start : heading.start()])
        skip_level = level if is_back_matter else 0
    if not skip_level:
        kept.append(wikitext[start:])
    return "".join(kept)


@cache
def _titles(language: str) -> frozenset[str]:
    local = Site(language).data.get("back_matter", [])
    return frozenset(title.lower() for title in [*SITES["back_matter"], *local])
