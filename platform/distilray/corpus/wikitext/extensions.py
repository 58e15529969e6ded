"""The tags whose content is not wikitext (references, formulas, code, `nowiki`), cut out before the page is parsed.

MediaWiki takes them out first too. The parser is then twice as fast, and one unclosed brace in a citation does not
spoil the text around it.
"""

import re

from distilray.corpus.wikitext.arguments import HOLE, PARAGRAPH

# What stands in the place of each tag.
_REPLACEMENTS = {
    "ref": "", "references": "", "templatedata": "", "inputbox": "", "categorytree": "", "mapframe": "",
    "maplink": "", "section": "", "indicator": "", "templatestyles": "", "imagemap": "", "graph": "",
    "gallery": PARAGRAPH, "poem": PARAGRAPH, "pre": PARAGRAPH, "source": PARAGRAPH, "syntaxhighlight": PARAGRAPH,
    "timeline": PARAGRAPH,
    "math": HOLE, "chem": HOLE, "ce": HOLE, "score": HOLE, "hiero": HOLE, "code": HOLE, "tt": HOLE,
}  # fmt: skip
_OPEN = re.compile(rf"<!--|<(nowiki|{'|'.join(_REPLACEMENTS)})(?=[\s/>])[^<>]*>", re.IGNORECASE)
_CLOSE = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("nowiki", *_REPLACEMENTS)}

# Signs inside <nowiki> are hidden from the parser in a private-use block of Unicode, and put back at the end.
_SIGNS = "'*#:;=|[]{}<>&_~!-"
_PROTECT = {ord(sign): 0xE100 + at for at, sign in enumerate(_SIGNS)}
_RESTORE = {chr(hidden): chr(sign) for sign, hidden in _PROTECT.items()}
_HIDDEN = re.compile("[\ue100-\ue11f]")
_MARKUP_SHOWN = re.compile(r"\[\[|\{\{|\{\||''|<|__|==|&\w+;")


def cut_extensions(wikitext: str) -> str:
    """`wikitext` without comments and extension tags.

    A tag that is never closed goes alone, as one pass can tell, a reference with the rest of its line.
    """
    kept: list[str] = []
    closes: dict[str, re.Match[str] | None] = {}  # the last one found, None behind the last: many tags stay cheap
    at = 0
    while (tag := _OPEN.search(wikitext, at)) is not None:
        kept.append(wikitext[at : tag.start()])
        if tag[1] is None:
            end = wikitext.find("-->", tag.end())
            at = len(wikitext) if end < 0 else end + 3
            continue
        name, at = tag[1].lower(), tag.end()
        if tag[0].rstrip(">").rstrip().endswith("/"):
            continue
        close = closes[name] if name in closes else _CLOSE[name].search(wikitext, at)
        if close is not None and close.start() < at:
            close = _CLOSE[name].search(wikitext, at)
        closes[name] = close
        if name == "ref" and (close is None or wikitext.find("<ref", at, close.start()) >= 0):
            at = _end_of_unclosed_reference(wikitext, at)
        elif close is not None:
            kept.append(_replacement(name, tag[0], wikitext[at : close.start()]))
            at = close.end()
    kept.append(wikitext[at:])
    return "".join(kept)


def _end_of_unclosed_reference(wikitext: str, at: int) -> int:
    """Where its line ends, or where another reference begins: one cannot hold another."""
    ends = (wikitext.find("\n", at), wikitext.find("<ref", at))
    return min((end for end in ends if end >= 0), default=len(wikitext))


def restore_protected(text: str) -> str:
    """Puts the signs back that stood inside `nowiki`."""
    return _HIDDEN.sub(lambda sign: _RESTORE[sign[0]], text)


def _replacement(name: str, tag: str, content: str) -> str:
    if name == "nowiki":
        return HOLE if _MARKUP_SHOWN.search(content) else content.translate(_PROTECT)
    if name in ("source", "syntaxhighlight") and " inline" in tag.lower():
        return HOLE
    return _REPLACEMENTS[name]
