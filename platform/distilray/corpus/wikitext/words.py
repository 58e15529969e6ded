"""The tokens of a page into the words that a reader sees, with a mark where a list item begins.

The tokenizer of mwparserfromhell gives a flat list in which every opening token has its closing one. It is walked once,
with a stack for what is open; what shows nothing is passed over by counting. No tree is built: the tree of
mwparserfromhell takes ten times as long as its tokens.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.entities import name2codepoint
from typing import Any

from mwparserfromhell.parser import tokens as kinds

from distilray.corpus.wikitext.amounts import superscript
from distilray.corpus.wikitext.arguments import HOLE, PARAGRAPH, Arguments, Rule
from distilray.corpus.wikitext.paragraphs import LIST_MARK
from distilray.corpus.wikitext.templates import template_rule

# Links into these show a picture, sort the page, or lead to other media; none shows words inside a sentence.
_SILENT_NAMESPACES = {"file", "image", "category", "media"}
_BLOCK_TAGS = {"blockquote", "center", "div", "p", "hr", "onlyinclude", "noinclude"}
_DROPPED_TAGS = {"table", "ul", "ol", "dl", "s", "del", "strike", "tr", "td", "th", "caption", "includeonly"}
_EMPTY_TAGS = {"br": " ", "hr": PARAGRAPH + PARAGRAPH}
_LIST_SIGNS = {"*", "#", ":", ";"}
_HIDING_STYLE = re.compile(r"display\s*:\s*none")
_NOT_IN_PIPE_TRICK = re.compile(r"^:?[^:]*:|\s*\([^()]*\)$|,.*$")


@dataclass(slots=True)
class _Open:
    """A construct that is open: the words around it, and what is known of it."""

    outer: list[str]
    name: str | None = None  # target of a link, tag, address of an external link, name of an argument of the page
    rule: Rule | None = None
    is_bare: bool = False  # an address without brackets
    values: dict[str, str] = field(default_factory=dict)
    key: str | None = None  # of the argument that is being read
    position: int = 0  # arguments without a name so far


class _Reader:
    """Where a walk stands: the tokens to come, the words of the innermost open construct, and all that are open."""

    __slots__ = ("opened", "rest", "words")

    def __init__(self, rest: Iterator[Any]) -> None:
        self.rest = rest
        self.words: list[str] = []
        self.opened: list[_Open] = []

    def open(self, name: str | None = None) -> None:
        self.opened.append(_Open(self.words, name))
        self.words = []

    def taken(self) -> str:
        """The words since the last mark of the innermost open construct; it goes on without them."""
        found = "".join(self.words)
        self.words = []
        return found

    def close(self) -> _Open:
        """The innermost open construct, which ends here; the words around it go on."""
        ended = self.opened.pop()
        self.words = ended.outer
        return ended

    def skip(self, opening: type, closing: type | tuple[type, ...]) -> None:
        """Passes the tokens up to the one that closes what is open."""
        depth = 1
        for token in self.rest:
            kind = type(token)
            if kind is opening:
                depth += 1
            elif kind is closing or (type(closing) is tuple and kind in closing):
                depth -= 1
                if not depth:
                    return


def shown_words(tokens: list[Any]) -> str:
    """What a reader sees of tokens, one line per line of the page; every list item begins with `LIST_MARK`."""
    rest = iter(tokens)
    reader = _Reader(rest)
    text = kinds.Text
    for token in rest:
        kind = type(token)
        if kind is text:
            reader.words.append(token["text"])
        else:
            _STEPS[kind](reader, token)
    return "".join(reader.words)


def _open(reader: _Reader, token: Any) -> None:
    reader.open()


def _link_separator(reader: _Reader, token: Any) -> None:
    target = reader.taken().strip()
    prefix, colon, _ = target.partition(":")
    if colon and prefix.strip().lower() in _SILENT_NAMESPACES:
        reader.close()
        reader.skip(kinds.WikilinkOpen, kinds.WikilinkClose)
    else:
        reader.opened[-1].name = target


def _link_close(reader: _Reader, token: Any) -> None:
    words = reader.taken()
    link = reader.close()
    if link.name is None:
        prefix, colon, _ = words.partition(":")
        space = prefix.strip().lower()
        if colon and (space in _SILENT_NAMESPACES or _is_language(space)):
            return
        words = words.strip().removeprefix(":")
    elif not words:
        words = _NOT_IN_PIPE_TRICK.sub("", link.name)  # [[Rome (city)|]] shows "Rome"
    reader.words.append(words.strip("\n"))


def _is_language(prefix: str) -> bool:
    """`de`, `nds-nl`: prefixes of the other Wikipedias."""
    parts = prefix.split("-")
    if prefix == "simple":
        return True
    return prefix.isascii() and prefix.islower() and len(parts[0]) in (2, 3) and all(map(str.isalpha, parts))


def _address(reader: _Reader, token: Any) -> None:
    reader.open()
    reader.opened[-1].is_bare = not token.get("brackets")


def _take_name(reader: _Reader, token: Any) -> None:
    reader.opened[-1].name = reader.taken()


def _show_after_separator(reader: _Reader, token: Any) -> None:
    words = reader.taken()
    ended = reader.close()
    if ended.name is not None:
        reader.words.append(words)
    elif ended.is_bare:
        reader.words.append(HOLE)


def _heading(reader: _Reader, token: Any) -> None:
    reader.skip(kinds.HeadingStart, kinds.HeadingEnd)
    reader.words.append(PARAGRAPH)


def _entity(reader: _Reader, token: Any) -> None:
    token = next(reader.rest)
    base = 0
    if type(token) is kinds.HTMLEntityNumeric:
        base, token = 10, next(reader.rest)
        if type(token) is kinds.HTMLEntityHex:
            base, token = 16, next(reader.rest)
    code = int(token["text"], base) if base else name2codepoint[token["text"]]
    next(reader.rest)
    if not 0xD800 <= code <= 0xDFFF:  # half a character: no text can hold it
        reader.words.append(chr(code))


def _comment(reader: _Reader, token: Any) -> None:
    reader.skip(kinds.CommentStart, kinds.CommentEnd)


def _template_separator(reader: _Reader, token: Any) -> None:
    use = reader.opened[-1]
    if use.name is None:
        use.name = reader.taken()
        use.rule = template_rule(use.name)
        if use.rule is None:
            reader.close()
            reader.skip(kinds.TemplateOpen, kinds.TemplateClose)
    else:
        _end_argument(use, reader.taken())


def _argument_name(reader: _Reader, token: Any) -> None:
    reader.opened[-1].key = reader.taken().strip()


def _end_argument(use: _Open, value: str) -> None:
    if use.key is None:
        use.position += 1
        use.key = str(use.position)
    use.values[use.key] = value.strip()
    use.key = None


def _template_close(reader: _Reader, token: Any) -> None:
    words = reader.taken()
    use = reader.close()
    if use.name is None:
        use.rule = template_rule(words)
    else:
        _end_argument(use, words)
    if use.rule is not None:
        reader.words.append(use.rule(Arguments(use.values)))


def _tag(reader: _Reader, token: Any) -> None:
    sign = token.get("wiki_markup")
    name = next(reader.rest).get("text", "").strip().lower()
    if sign in _LIST_SIGNS:
        next(reader.rest)
        reader.words.append(LIST_MARK)
        return
    has_content, hidden = _skip_attributes(reader.rest)
    if name in _DROPPED_TAGS or hidden:
        if has_content:
            reader.skip(kinds.TagOpenOpen, (kinds.TagCloseClose, kinds.TagCloseSelfclose))
        reader.words.append(PARAGRAPH if name == "table" or name in _BLOCK_TAGS else "")
    elif has_content:
        reader.open(name)
    else:
        reader.words.append(_EMPTY_TAGS.get(name, ""))


def _skip_attributes(rest: Iterator[Any]) -> tuple[bool, bool]:
    """Passes the attributes of a tag; says whether content comes then, and whether its style hides it."""
    depth = 0  # of tags inside the attributes
    hidden = False
    for token in rest:
        kind = type(token)
        if kind is kinds.TagCloseOpen:
            if not depth:
                return True, hidden
        elif kind is kinds.TagCloseSelfclose or kind is kinds.TagCloseClose:
            if not depth:
                return False, hidden
            depth -= 1
        elif kind is kinds.TagOpenOpen:
            depth += 1
        elif kind is kinds.Text and "none" in token["text"]:
            hidden = hidden or _HIDING_STYLE.search(token["text"]) is not None
    return False, hidden


def _tag_close(reader: _Reader, token: Any) -> None:
    words = reader.taken()
    name = reader.close().name
    reader.skip(kinds.TagOpenOpen, kinds.TagCloseClose)
    if name == "sup":
        words = superscript(words)
    elif name in _EMPTY_TAGS or name == "li":
        words = _EMPTY_TAGS.get(name, "")
    elif name in _BLOCK_TAGS:
        words = f"{PARAGRAPH}{words}{PARAGRAPH}"
    reader.words.append(words)


_STEPS: dict[type, Callable[[_Reader, Any], None]] = {
    kinds.WikilinkOpen: _open,
    kinds.WikilinkSeparator: _link_separator,
    kinds.WikilinkClose: _link_close,
    kinds.ExternalLinkOpen: _address,
    kinds.ExternalLinkSeparator: _take_name,
    kinds.ExternalLinkClose: _show_after_separator,
    kinds.ArgumentOpen: _open,
    kinds.ArgumentSeparator: _take_name,
    kinds.ArgumentClose: _show_after_separator,
    kinds.HeadingStart: _heading,
    kinds.HTMLEntityStart: _entity,
    kinds.CommentStart: _comment,
    kinds.TemplateOpen: _open,
    kinds.TemplateParamSeparator: _template_separator,
    kinds.TemplateParamEquals: _argument_name,
    kinds.TemplateClose: _template_close,
    kinds.TagOpenOpen: _tag,
    kinds.TagOpenClose: _tag_close,
}
