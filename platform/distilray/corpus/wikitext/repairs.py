"""Repair of the spaces, brackets and quotes around what was removed from a paragraph.

Nothing else changes: the empty brackets of `main()` belong to the text. Each pattern matches whole runs of characters,
so that the time is linear.
"""

# ruff: noqa: RUF001 - dashes and signs of running text are the subject here

import re

from distilray.corpus.wikitext.arguments import GAP, HOLE, UNKNOWN

_MARKED = re.compile(f"[{GAP}{HOLE}{UNKNOWN}]")
_GAPS = re.compile(f"{GAP}(?: ?{GAP})+")
# Most gaps are references: behind a word or sign, before a space. They leave nothing to repair.
_PLAIN_GAP = re.compile(rf"(?<=[^\s(\[\"“]){GAP}(?=$| [^\s,.;:!?)\]–])")
_ASIDE = re.compile(r"\(([^()]*)\)")
_BRACKETS = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_QUOTES = re.compile(rf"(?<!\S)[\"“] ?{GAP} ?[\"”](?!\S)")
_SEPARATORS = re.compile(f"[ ,;:/–—{GAP}-]+")
_LOOSE_SIGN = re.compile(r" [,.)]|\( |^(?:\.\.|…)")
_TIGHT_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r" ([,.])(?=\s|$|[\"')\]])"), r"\1"),
    (re.compile(r"\( "), "("),
    (re.compile(r" \)"), ")"),
    (re.compile(r"^(?:\.{2,}|…) ?(?=\w)"), ""),
)


def repair_gaps(paragraph: str) -> str:
    """`paragraph`, in which white space is single spaces, without its gaps and without asides that have a hole."""
    if _MARKED.search(paragraph):
        paragraph = _ASIDE.sub(_without_hole, paragraph)
        paragraph = _PLAIN_GAP.sub("", _GAPS.sub(GAP, paragraph))
    if GAP in paragraph:
        paragraph = _QUOTES.sub(GAP, _BRACKETS.sub(_without_empty, paragraph))
        paragraph = _SEPARATORS.sub(
            _joined, paragraph.lstrip(f" ,;:)]{GAP}") if _begins_with_gap(paragraph) else paragraph
        )
    if _LOOSE_SIGN.search(paragraph):
        for pattern, replacement in _TIGHT_SIGNS:
            paragraph = pattern.sub(replacement, paragraph)
    return paragraph


def _begins_with_gap(paragraph: str) -> bool:
    return paragraph.lstrip(" ,;:)]").startswith(GAP)


def _without_hole(aside: re.Match[str]) -> str:
    return GAP if HOLE in aside[1] or UNKNOWN in aside[1] else aside[0]


def _without_empty(brackets: re.Match[str]) -> str:
    """A gap for brackets that hold separators only."""
    is_empty = GAP in brackets[1] and brackets[1].strip(f" ,;:/–—{GAP}-") in ("", "or", "and")
    return GAP if is_empty else brackets[0]


def _joined(separators: re.Match[str]) -> str:
    """The separators on both sides of a gap as one."""
    run, text = separators[0], separators.string
    if GAP not in run:
        return run
    following = text[separators.end() : separators.end() + 2]
    if text[separators.start() - 1 : separators.start()] in ("(", "[") or following[:1] in (")", "]"):
        return ""
    before, after = run[: run.index(GAP)], run[run.rindex(GAP) + 1 :]
    is_spaced = " " in (before[-1:], after[-1:])
    if before.strip():
        return before.rstrip() + (" " if is_spaced else "")
    if after.strip():
        return after.lstrip() if after.lstrip()[0] in ",;:" else (" " if is_spaced else "") + after.lstrip()
    ends = following[:1] in (".", "!", "?") and not following[1:].isalnum()
    return " " if is_spaced and not ends else ""
