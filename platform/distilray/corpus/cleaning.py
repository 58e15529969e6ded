"""Wikitext into the words that a reader sees in running text.

Three steps: extension tags are cut out first, as MediaWiki does; mwparserfromhell parses what is left; its nodes are
turned into lines, of which those of prose become paragraphs.
"""

from collections.abc import Callable
from typing import Any

import mwparserfromhell
from mwparserfromhell.nodes import Argument, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import ParserError

from distilray.corpus.wikitext.extensions import cut_extensions, restore_protected
from distilray.corpus.wikitext.paragraphs import HEADING_MARK, LIST_MARK, prose
from distilray.corpus.wikitext.templates import HOLE, PARAGRAPH, Arguments, superscript, template_words

__all__ = ["HOLE", "MarkupError", "clean_wikitext"]

# Links into these show a picture, sort the page, or lead to other languages; none shows words inside a sentence.
_SILENT_NAMESPACES = {"file", "image", "category", "media"}
_BLOCK_TAGS = {"blockquote", "center", "div", "p", "hr", "onlyinclude", "includeonly", "noinclude"}
_DROPPED_TAGS = {"table", "ul", "ol", "dl", "s", "del", "strike", "tr", "td", "th", "caption", "includeonly"}
_LIST_SIGNS = {"*", "#", ":", ";"}


class MarkupError(ValueError):
    """Wikitext that the parser cannot read."""


def clean_wikitext(wikitext: str) -> str:
    """The prose of a page: paragraphs with a blank line between, without lists, tables, headings and references.

    Where a sentence shows something that is not words (a formula, code, a price of today) it has `HOLE` in its place,
    so that the caller can leave that sentence out.

    Raises:
        MarkupError: the parser gives up on it.
    """
    try:
        code = mwparserfromhell.parse(cut_extensions(wikitext), skip_style_tags=True)
    except (ParserError, RecursionError) as error:
        raise MarkupError(str(error)) from None
    return restore_protected(prose(_words(code)))


def _words(code: Any) -> str:
    """What a reader sees of parsed wikitext, with marks where list items and headings begin."""
    if code is None:
        return ""
    return "".join([_NODES[type(node)](node) for node in code.nodes if type(node) in _NODES])


def _link(node: Any) -> str:
    target = str(node.title).strip()
    prefix, colon, _ = target.partition(":")
    if colon and prefix and not prefix.isspace():
        space = prefix.strip().lower()
        if space in _SILENT_NAMESPACES or (node.text is None and _is_language(space)):
            return ""
    words = _words(node.text) if node.text is not None else _words(node.title).removeprefix(":")
    return words.strip("\n")


def _is_language(prefix: str) -> bool:
    """`de`, `nds-nl`: prefixes of the other Wikipedias."""
    parts = prefix.split("-")
    return prefix.isascii() and prefix.islower() and len(parts[0]) in (2, 3) and all(map(str.isalpha, parts))


def _external_link(node: Any) -> str:
    return _words(node.title)


def _heading(node: Any) -> str:
    return f"\n{HEADING_MARK}{node.level}{_words(node.title).strip()}\n"


def _tag(node: Any) -> str:
    if node.wiki_markup in _LIST_SIGNS:
        return LIST_MARK
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return PARAGRAPH if name == "table" else ""
    if name == "br":
        return " "
    if name == "li":
        return ""
    words = _words(node.contents) if node.contents is not None else ""
    if name == "sup":
        return superscript(words)
    return f"{PARAGRAPH}{words}{PARAGRAPH}" if name in _BLOCK_TAGS else words


def _template(node: Any) -> str:
    def arguments() -> Arguments:
        return Arguments({str(part.name).strip(): _words(part.value).strip() for part in node.params})

    return template_words(str(node.name).strip(), arguments)


_NODES: dict[type, Callable[[Any], str]] = {
    Text: lambda node: node.value,
    Wikilink: _link,
    ExternalLink: _external_link,
    HTMLEntity: lambda node: node.normalize(),
    Heading: _heading,
    Tag: _tag,
    Template: _template,
    Argument: lambda node: _words(node.default),
}
