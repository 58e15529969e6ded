"""The tags whose content is not wikitext (references, formulas, code, `nowiki`), cut out before the page is parsed.

MediaWiki takes them out first too. The parser is then twice as fast, and one unclosed brace in a citation does not
spoil the text around it.
"""

import re

from distilray.corpus.wikitext.templates import HOLE, PARAGRAPH

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
_RESTORE = {hidden: sign for sign, hidden in _PROTECT.items()}
_MARKUP_SHOWN = re.compile(r"\[\[|\{\{|\{\||''|<|__|==|&\w+;")


def cut_extensions(wikitext: str) -> str:
    """`wikitext` without comments and extension tags; a tag that is never closed goes alone, as one pass can tell."""
    kept: list[str] = []
    unclosed: set[str] = set()
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
        close = None if name in unclosed else _CLOSE[name].search(wikitext, at)
        if close is None:
            unclosed.add(name)  # never searched for again: many unclosed tags stay cheap
            continue
        kept.append(_replacement(name, tag[0], wikitext[at : close.start()]))
        at = close.end()
    kept.append(wikitext[at:])
    return "".join(kept)


def restore_protected(text: str) -> str:
    """Puts the signs back that stood inside `nowiki`."""
    return text.translate(_RESTORE)


def _replacement(name: str, tag: str, content: str) -> str:
    if name == "nowiki":
        return HOLE if _MARKUP_SHOWN.search(content) else content.translate(_PROTECT)
    if name in ("source", "syntaxhighlight") and " inline" in tag.lower():
        return HOLE
    return _REPLACEMENTS[name]
