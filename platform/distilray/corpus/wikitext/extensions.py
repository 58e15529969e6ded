"""Tags whose content is not wikitext (references, formulas, code, `nowiki`), cut out before the page is read.

MediaWiki takes them out first, too, so that an unclosed brace in a citation does not spoil the text around it.
"""

import re

from distilray.corpus.wikitext.arguments import GAP, HOLE, PARAGRAPH

# The text that replaces each tag and its content.
_REPLACEMENTS = {
    "ref": GAP, "references": GAP, "templatedata": "", "inputbox": "", "categorytree": "", "mapframe": "",
    "maplink": "", "section": "", "indicator": "", "templatestyles": "", "imagemap": "", "graph": "", "phonos": GAP,
    "gallery": PARAGRAPH, "poem": PARAGRAPH, "pre": PARAGRAPH, "source": PARAGRAPH, "syntaxhighlight": PARAGRAPH,
    "timeline": PARAGRAPH,
    "math": HOLE, "chem": HOLE, "ce": HOLE, "score": HOLE, "hiero": HOLE, "code": HOLE, "tt": HOLE,
}  # fmt: skip
# As in MediaWiki the first ">" ends a tag, even between quotes; "<" is valid inside, as in <ref name="p<0.05">.
_OPEN = re.compile(rf"<!--|<(nowiki|{'|'.join(_REPLACEMENTS)})(?=[\s/>])[^>]{{0,1000}}>", re.IGNORECASE)
_CLOSE = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("nowiki", *_REPLACEMENTS)}
# <ref name="a>b" /> was meant to end at the last sign.
_REST_OF_NAME = re.compile(r"[^<>\"\n]{0,200}\"\s*/>")
_ENDED = re.compile(rf"(?:[.!?…。！？।؟][\"”’»)]?|^|\n)[\s{GAP}]*$")  # noqa: RUF001 - signs of many scripts
_LINE_OR_REFERENCE = re.compile(r"\n|<ref")

# Signs inside <nowiki> are hidden from the parser in a private-use block of Unicode, and put back at the end.
_SIGNS = "'*#:;=|[]{}<>&_~!-"
_PROTECT = {ord(sign): 0xE100 + at for at, sign in enumerate(_SIGNS)}
_RESTORE = {chr(hidden): chr(sign) for sign, hidden in _PROTECT.items()}
_HIDDEN = re.compile("[\ue100-\ue11f]")
_SHOWN = re.compile(
    "|".join(pair.translate(_PROTECT) for pair in ("[[", "]]", "{{", "}}", "''", "=="))
    + f"|{'<'.translate(_PROTECT)}/?[a-zA-Z][^\\s{'>'.translate(_PROTECT)}]*{'>'.translate(_PROTECT)}?"
)
_MARKUP_SHOWN = re.compile(r"\[\[|\{\{|\{\||''|<|__|==|&\w+;")


def remove_extension_tags(wikitext: str) -> str:
    """`wikitext` without comments and extension tags.

    A tag that is never closed goes alone, as one pass can tell, a reference with the rest of its line.
    """
    kept: list[str] = []
    closes: dict[str, re.Match[str] | None] = {}  # the next closing tag by name, None behind the last
    at = 0
    while (tag := _OPEN.search(wikitext, at)) is not None:
        kept.append(wikitext[at : tag.start()])
        if tag[1] is None:
            end = wikitext.find("-->", tag.end())
            at = len(wikitext) if end < 0 else end + 3
            continue
        name, at = tag[1].lower(), tag.end()
        if name == "ref" and tag[0].count('"') % 2 and (rest := _REST_OF_NAME.match(wikitext, at)):
            kept.append(GAP)
            at = rest.end()
            continue
        if tag[0].rstrip(">").rstrip().endswith("/"):
            kept.append(GAP if name == "ref" else "")
            continue
        close = closes[name] if name in closes else _CLOSE[name].search(wikitext, at)
        if close is not None and close.start() < at:
            close = _CLOSE[name].search(wikitext, at)
        closes[name] = close
        if name == "ref" and (close is None or wikitext.find("<ref", at, close.start()) >= 0):
            at = _end_of_unclosed_reference(wikitext, at)
            if not wikitext.startswith("<", at) and not _ENDED.search("".join(kept[-4:])):
                kept.append(HOLE)  # the rest of the sentence is lost
        elif close is not None:
            kept.append(_replacement(name, tag[0], wikitext[at : close.start()]))
            at = close.end()
    kept.append(wikitext[at:])
    return "".join(kept)


def _end_of_unclosed_reference(wikitext: str, at: int) -> int:
    """The end of its line, or the beginning of another reference: references do not nest."""
    end = _LINE_OR_REFERENCE.search(wikitext, at)
    return end.start() if end is not None else len(wikitext)


def protect_markup(text: str) -> str:
    """`text` with the signs of markup hidden, so that they are only text; `restore_protected` brings them back."""
    return text.translate(_PROTECT)


def mask_literal_markup(paragraph: str) -> str:
    """`paragraph` with `HOLE` for protected signs that show markup, such as the tag of `&lt;ref&gt;`."""
    return _SHOWN.sub(HOLE, paragraph) if _HIDDEN.search(paragraph) else paragraph


def restore_markup(text: str) -> str:
    """Puts the signs back that stood inside `nowiki`."""
    return _HIDDEN.sub(lambda sign: _RESTORE[sign[0]], text)


def _replacement(name: str, tag: str, content: str) -> str:
    if name == "nowiki":
        return HOLE if _MARKUP_SHOWN.search(content) else protect_markup(content)
    if name in ("source", "syntaxhighlight") and " inline" in tag.lower():
        return HOLE
    return _REPLACEMENTS[name]
