"""Instructions to the software of the wiki: magic words such as `__NOTOC__`, and variants of a language."""

import re

from distilray.corpus.wikitext.arguments import GAP, HOLE
from distilray.corpus.wikitext.sites import SITES, Site

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


def remove_switches(wikitext: str) -> str:
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
