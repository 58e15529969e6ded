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
_LOOSE_SIGNS = (" ,", " .", " )", "( ")
_TIGHT_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r" ([,.])(?=\s|$|[\"')\]])(?<!\w \.(?= [a-z]))"), r"\1"),  # but "press . to repeat"
    (re.compile(r"(?<![:;])\( "), "("),  # but ":( is sad"
    (re.compile(r" \)"), ")"),
    (re.compile(r"^(?:\.{2,}|…) ?(?=\w)"), ""),
)


def repair_gaps(paragraph: str) -> str:
    """`paragraph`, in which white space is single spaces, without its gaps and without asides that have a hole."""
    if _MARKED.search(paragraph):
        paragraph = _ASIDE.sub(_without_hole, paragraph)
        paragraph = _PLAIN_GAP.sub("", _GAPS.sub(_one_gap, paragraph))
    if GAP in paragraph:
        paragraph = _QUOTES.sub(GAP, _BRACKETS.sub(_without_empty, paragraph))
        paragraph = _SEPARATORS.sub(
            _joined, paragraph.lstrip(f" ,;:)]{GAP}") if _begins_with_gap(paragraph) else paragraph
        )
    if any(sign in paragraph for sign in _LOOSE_SIGNS) or paragraph.startswith(("..", "…")):
        for pattern, replacement in _TIGHT_SIGNS:
            paragraph = pattern.sub(replacement, paragraph)
    return paragraph


def _begins_with_gap(paragraph: str) -> bool:
    return paragraph.lstrip(" ,;:)]").startswith(GAP)


def _one_gap(gaps: re.Match[str]) -> str:
    return f"{GAP} " if " " in gaps[0] else GAP


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
    parts = run.split(GAP)
    signs = [part for part in parts if part.strip()]
    if not signs:
        is_end = following[:1] in (".", "!", "?") and not following[1:].isalnum()
        return " " if " " in run and not (is_end and parts[0]) else ""
    first, sign = signs[0], signs[0].strip()
    if len(signs) > 1 and sign[-1] in ",;:" and signs[-1].strip()[0] not in ",;:":
        return first.rstrip() + signs[-1]  # such as a comma and a dash, which both belong to the text
    before, _, after = run.partition(sign)
    is_spaced = " " in before and (sign[0] not in ",;:" or (sign[0] != "," and not parts[0].isspace()))
    return f"{' ' if is_spaced else ''}{sign}{' ' if ' ' in after else ''}"
