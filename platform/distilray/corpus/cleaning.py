"""Wikitext into the words that a reader sees in running text.

Extension tags are cut out first, as MediaWiki does. What the rest shows becomes lines, and those of prose paragraphs.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from distilray.corpus.wikitext.arguments import HOLE, UNKNOWN, unknown_names
from distilray.corpus.wikitext.extensions import cut_extensions, restore_protected
from distilray.corpus.wikitext.paragraphs import prose
from distilray.corpus.wikitext.sections import cut_back_matter
from distilray.corpus.wikitext.sites import ENGLISH, Site
from distilray.corpus.wikitext.switches import choose_variants, remove_switches
from distilray.corpus.wikitext.templates import TemplateRules
from distilray.corpus.wikitext.visible_text import visible_text

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
    text = choose_variants(remove_switches(cut_extensions(_without_reserved(wikitext))), site)
    return restore_protected(prose(visible_text(cut_back_matter(text, site), site, rules)))


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
