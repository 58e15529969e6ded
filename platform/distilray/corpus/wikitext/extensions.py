"""Extension tags, whose content is not wikitext: references, formulas, code, `nowiki`.

As in MediaWiki, they are removed before parsing, so that an unclosed brace in a citation does not affect the text
around it.
"""

import re

from distilray.corpus.wikitext.arguments import GAP, HOLE, PARAGRAPH

# Replacement for each tag and its content.
_REPLACEMENTS = {
    "ref": GAP, "references": GAP, "templatedata": "", "inputbox": "", "categorytree": "", "mapframe": "",
    "maplink": "", "section": "", "indicator": "", "templatestyles": "", "imagemap": "", "graph": "", "phonos": GAP,
    "gallery": PARAGRAPH, "poem": PARAGRAPH, "pre": PARAGRAPH, "source": PARAGRAPH, "syntaxhighlight": PARAGRAPH,
    "timeline": PARAGRAPH,
    "math": HOLE, "chem": HOLE, "ce": HOLE, "score": HOLE, "hiero": HOLE, "code": HOLE, "tt": HOLE,
}  # fmt: skip
# As in MediaWiki, the first ">" ends a tag, even in quotes. "<" is valid inside, as in <ref name="p<0.05">.
_OPEN = re.compile(rf"<!--|<(nowiki|{'|'.join(_REPLACEMENTS)})(?=[\s/>])[^>]{{0,1000}}>", re.IGNORECASE)
_CLOSE = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("nowiki", *_REPLACEMENTS)}
# The rest of a tag such as <ref name="a>b" />.
_REST_OF_NAME = re.compile(r"[^<>\"\n]{0,200}\"\s*/>")
_ENDED = re.compile(rf"(?:[.!?…。！？।؟][\"”’»)]?|^|\n)[\s{GAP}]*$")  # noqa: RUF001
_LINE_OR_REFERENCE = re.compile(r"\n|<ref")

# Markup characters inside <nowiki> are mapped to private-use characters, and restored at the end.
_MARKUP_CHARACTERS = "'*#:;=|[]{}<>&_~!-"
_PROTECT = {ord(char): 0xE100 + index for index, char in enumerate(_MARKUP_CHARACTERS)}
_RESTORE = {chr(protected): chr(char) for char, protected in _PROTECT.items()}
_PROTECTED = re.compile("[\ue100-\ue11f]")
_LITERAL_MARKUP = re.compile(
    "|".join(pair.translate(_PROTECT) for pair in ("[[", "]]", "{{", "}}", "''", "=="))
    + f"|{'<'.translate(_PROTECT)}/?[a-zA-Z][^\\s{'>'.translate(_PROTECT)}]*{'>'.translate(_PROTECT)}?"
)
_NOWIKI_MARKUP = re.compile(r"\[\[|\{\{|\{\||''|<|__|==|&\w+;")


def remove_extension_tags(wikitext: str) -> str:
    """Remove comments and extension tags.

    If a tag is unclosed, only the tag itself is removed; if a reference is unclosed, the rest of its line as well.
    """
    kept: list[str] = []
    closes: dict[str, re.Match[str] | None] = {}  # next closing tag by name, None after the last one
    position = 0
    while (tag := _OPEN.search(wikitext, position)) is not None:
        kept.append(wikitext[position : tag.start()])
        if tag[1] is None:
            end = wikitext.find("-->", tag.end())
            position = len(wikitext) if end < 0 else end + 3
            continue
        name, position = tag[1].lower(), tag.end()
        if name == "ref" and tag[0].count('"') % 2 and (rest := _REST_OF_NAME.match(wikitext, position)):
            kept.append(GAP)
            position = rest.end()
            continue
        if tag[0].rstrip(">").rstrip().endswith("/"):
            kept.append(GAP if name == "ref" else "")
            continue
        close = closes[name] if name in closes else _CLOSE[name].search(wikitext, position)
        if close is not None and close.start() < position:
            close = _CLOSE[name].search(wikitext, position)
        closes[name] = close
        if name == "ref" and (close is None or wikitext.find("<ref", position, close.start()) >= 0):
            position = _end_of_unclosed_reference(wikitext, position)
            if not wikitext.startswith("<", position) and not _ENDED.search("".join(kept[-4:])):
                kept.append(HOLE)  # the rest of the sentence is lost
        elif close is not None:
            kept.append(_replacement(name, tag[0], wikitext[position : close.start()]))
            position = close.end()
    kept.append(wikitext[position:])
    return "".join(kept)


def _end_of_unclosed_reference(wikitext: str, position: int) -> int:
    """Return the end of the line or the start of the next reference, since references cannot be nested."""
    end = _LINE_OR_REFERENCE.search(wikitext, position)
    return end.start() if end is not None else len(wikitext)


def protect_markup(text: str) -> str:
    """Replace markup characters so that they are not parsed. Reverted by `restore_markup`."""
    return text.translate(_PROTECT)


def mask_literal_markup(paragraph: str) -> str:
    """Replace protected text that looks like markup, such as the tag from `&lt;ref&gt;`, with `HOLE`."""
    return _LITERAL_MARKUP.sub(HOLE, paragraph) if _PROTECTED.search(paragraph) else paragraph


def restore_markup(text: str) -> str:
    return _PROTECTED.sub(lambda match: _RESTORE[match[0]], text)


def _replacement(name: str, tag: str, content: str) -> str:
    if name == "nowiki":
        return HOLE if _NOWIKI_MARKUP.search(content) else protect_markup(content)
    if name in ("source", "syntaxhighlight") and " inline" in tag.lower():
        return HOLE
    return _REPLACEMENTS[name]
