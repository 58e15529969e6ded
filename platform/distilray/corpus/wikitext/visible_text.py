"""The words of a page that a reader sees, one line per line of the page.

`match_brackets` pairs all brackets first. The text is then read once from left to right: what shows nothing is skipped
at once, and what is never closed is text. No step looks back or searches the rest of the page, so time is linear.
"""

import html
import re
from collections.abc import Callable

from distilray.corpus.wikitext.arguments import GAP, HOLE, PARAGRAPH, Arguments, unknown_template
from distilray.corpus.wikitext.brackets import Closings, is_image_link, link_text, match_brackets
from distilray.corpus.wikitext.extensions import protect_markup
from distilray.corpus.wikitext.number_templates import fraction, superscript
from distilray.corpus.wikitext.paragraphs import LIST_MARK
from distilray.corpus.wikitext.sites import Site
from distilray.corpus.wikitext.templates import TemplateRules, nothing

_MAX_DEPTH = 40  # of brackets inside brackets
_BLOCK = r"blockquote|center|div|p|table|t[dhr]|li|ul|ol|dl|h[1-6]|hr|noinclude|includeonly|onlyinclude"
_MARKUP = re.compile(
    r"\[\[(?P<target>[^\[\]{}|\n<]{1,300})(?:\|(?P<label>[^\[\]{}\n<]{0,300}))?\]\]"  # without brackets inside
    r"|\{\{|\[\[|\[(?=(?:(?:https?|ftp):)?//|mailto:)"
    r"|&(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});"
    r"|<(?P<closes>/?)(?P<tag>[a-zA-Z][a-zA-Z0-9]*)(?=[\s/>])(?P<attributes>[^<>]{0,1000})>"
    r"|\n(?:(?P<table>[ \t:]*\{\|)|(?P<list>[*\#:;]+)|(?P<heading>={1,6}[^\n]+?=[ \t]*(?=\n|\Z))"
    rf"|(?P<preformatted>[ ]+(?!\{{[{{|]|</?(?:{_BLOCK})\b|\s|\Z)))"
)
_ARGUMENT_SIGN = re.compile(r"\||=|\{\{|\[\[|\n[ \t:]*\{\|")
_NAME = re.compile(r"[^|{}\[\]<]*")
_ADDRESS = re.compile(r"[^\s\[\]<>\"]*\s*")
_TABLE_END_TEMPLATE = re.compile(
    r"\{\{(?:[\w -]{0,40}\bend|end [\w -]{1,20}|[\w -]{0,40}(?:bottom|btm)|tableend)[ ]{0,5}(?:\|[^{}]{0,300})?\}\}"
    r"|\n=|\n[ \t:]*\{\|",
    re.IGNORECASE,
)
_TABLE_END = re.compile(r"\n[ \t]*\n(?!\s*[|!])|\n(?==)")

_HIDING_STYLE = re.compile(r"display\s*:\s*none")
_DROPPED_TAGS = {
    "table": PARAGRAPH, **dict.fromkeys(["h1", "h2", "h3", "h4", "h5", "h6"], PARAGRAPH),
    **dict.fromkeys(
        ["ul", "ol", "dl", "s", "del", "strike", "tr", "td", "th", "caption", "includeonly", "rt", "rp"], GAP
    ),
}  # fmt: skip
_SHOWN_TAGS = {
    **dict.fromkeys(["blockquote", "center", "div", "p", "onlyinclude", "noinclude", "hr"], PARAGRAPH),
    **dict.fromkeys(["b", "strong"], "'''"),
    **dict.fromkeys(
        ["i", "em", "small", "big", "span", "font", "u", "ins", "sub", "sup", "abbr", "bdi", "bdo", "cite", "dfn",
         "kbd", "mark", "q", "rb", "ruby", "samp", "time", "var", "wbr", "data", "rtc"], ""
    ),
    # Halves of pairs that MediaWiki reads before all others.
    **dict.fromkeys(["ref", "references", "nowiki", "gallery", "poem", "pre"], GAP),
    "br": " ", "li": f"\n{LIST_MARK}", "dt": f"\n{LIST_MARK}", "dd": f"\n{LIST_MARK}",
}  # fmt: skip


def visible_text(wikitext: str, site: Site, rules: TemplateRules) -> str:
    """The words of `wikitext`, with marks where there are none.

    `LIST_MARK` begins a list item or code, `HOLE` and `UNKNOWN` stand for what the page alone does not tell, and `GAP`
    for what shows nothing.

    Args:
        wikitext: without comments and extension tags.
        site: the wiki, which knows the names of namespaces.
        rules: what templates show.
    """
    page = _Page(f"\n{wikitext}", site, rules)
    return page.words(0, len(page.text), 0)


class _Page:
    def __init__(self, text: str, site: Site, rules: TemplateRules) -> None:
        self.text = text
        self._site, self._rules = site, rules
        self._closings: Closings = match_brackets(text)
        self._empty_line_until = -1  # nothing has been shown on the line that this position is in
        self._readers: dict[str, Callable[[re.Match[str], int, int], tuple[str, int]]] = {
            "{": self._braces, "[": self._brackets, "&": self._entity, "<": self._tag, "\n": self._line,
        }  # fmt: skip

    def words(self, at: int, end: int, depth: int) -> str:
        """Return the words that the text from `at` to `end` shows."""
        if depth > _MAX_DEPTH:
            return HOLE
        text, readers, search = self.text, self._readers, _MARKUP.search
        shown: list[str] = []
        while (token := search(text, at, end)) is not None:
            start = token.start()
            if start > at:
                shown.append(text[at:start])
            words, at = readers[text[start]](token, end, depth)
            shown.append(words)
        shown.append(text[at:end])
        return "".join(shown)

    def _braces(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        start = token.start()
        inner_end, behind = self._closings.get(start, (end, end + 1))
        if behind > end:
            return "{", start + 1
        if behind - inner_end == 3:  # an argument of the page shows its default
            _, *default = self._split(start + 3, inner_end)
            return (self.words(default[0][0], inner_end, depth + 1) if default else "") or GAP, behind
        begins_line = self._begins_line(start)
        words = self._template(start, inner_end, depth, begins_line)
        if begins_line and not words.strip(GAP):
            self._empty_line_until = behind
        return words, behind

    def _begins_line(self, start: int) -> bool:
        return self.text[start - 1] == "\n" or self._empty_line_until == start

    def _template(self, start: int, inner_end: int, depth: int, begins_line: bool) -> str:
        name_end = self._name(start + 2, inner_end)
        name = self.text[start + 2 : name_end]
        function, colon, _ = name.partition(":")
        rule = self._rules.rule(name)
        if rule is nothing:
            return GAP
        if rule is None and colon and (transform := self._rules.function(function)):
            begin, _, stop = self._split(start + 3 + len(function), inner_end)[0]
            return transform(self.words(begin, stop, depth + 1).strip()) or GAP
        if rule is None:
            if begins_line and "\n" in self.text[start:inner_end] and not self._goes_on(inner_end + 2):
                return ""  # a block of its own, such as an info box
            return unknown_template(name)
        words = rule(self._arguments(name_end + 1, inner_end, depth))
        if rule is fraction and self.text[start - 1].isdigit():
            words = f" {words}"
        return words or GAP

    def _goes_on(self, at: int) -> bool:
        """Whether a sentence goes on here, so that what is before was part of it."""
        following = self.text[at : at + 3].lstrip(" ")[:1]
        return following.islower() or following in (",", ";", ")")

    def _name(self, at: int, end: int) -> int:
        """The end of the name of a template or page."""
        name = _NAME.match(self.text, at, end)
        return name.end() if name is not None else at

    def _arguments(self, at: int, end: int, depth: int) -> Arguments:
        values: dict[str, str] = {}
        position = 0
        for start, equals, stop in self._split(at, end) if at <= end else ():
            if equals >= 0:
                key, start = self.words(start, equals, depth + 1).strip(), equals + 1
            else:
                position += 1
                key = str(position)
            values[key] = self.words(start, stop, depth + 1).strip(f" \t\n{GAP}")
        return Arguments(values)

    def _split(self, at: int, end: int) -> list[tuple[int, int, int]]:
        """Begin, first `=` (or -1) and end of the spans between the separators outside of inner brackets."""
        spans: list[tuple[int, int, int]] = []
        begin, equals = at, -1
        while (sign := _ARGUMENT_SIGN.search(self.text, at, end)) is not None:
            at = sign.end()
            if sign[0] == "|":
                spans.append((begin, equals, sign.start()))
                begin, equals = at, -1
            elif sign[0] == "=":
                equals = sign.start() if equals < 0 else equals
            else:
                _, behind = self._closings.get(sign.start(), (0, 0))
                at = behind if sign.start() < behind <= end else sign.start() + 1
        return [*spans, (begin, equals, end)]

    def _brackets(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        start = token.start()
        if token["target"]:
            words = link_text(token["target"], lambda: token["label"], self._site)
            if not words and self._begins_line(start):
                self._empty_line_until = token.end()
            if "&" in words:
                words = self.words(*token.span("label" if token["label"] else "target"), depth + 1)
            return words or GAP, token.end()
        inner_end, behind = self._closings.get(start, (end, end + 1))
        if behind > end:
            return "[", start + 1
        if token[0] == "[":
            address = _ADDRESS.match(self.text, start + 1, inner_end)
            assert address is not None, "the pattern matches the empty text"
            return self.words(address.end(), inner_end, depth + 1) or GAP, behind
        target_end = self._name(start + 2, inner_end)
        if self.text[target_end] != "|" and target_end < inner_end:  # a template in the name of the page
            target_end = self._split(start + 2, inner_end)[0][2]
        if target_end < inner_end:
            target = self.text[start + 2 : target_end]
            words = link_text(target, lambda: self.words(target_end + 1, inner_end, depth + 1), self._site)
        else:
            words = link_text(self.words(start + 2, inner_end, depth + 1), lambda: None, self._site)
        if not words and self._begins_line(start):
            self._empty_line_until = behind
        return words.strip("\n") or GAP, behind

    def _entity(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        sign = html.unescape(token[0])
        if sign == "\ufffd":  # half a character: no text can hold it
            return "", token.end()
        return sign if sign == "&" else protect_markup(sign), token.end()

    def _tag(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        name, start, is_closing = token["tag"].lower(), token.start(), bool(token["closes"])
        is_hidden = not is_closing and "none" in token["attributes"] and _HIDING_STYLE.search(token["attributes"])
        inner_end, behind = self._closings.get(start, (end, end + 1))
        is_paired = behind <= end
        if name in _DROPPED_TAGS or is_hidden:
            mark = _DROPPED_TAGS.get(name, _SHOWN_TAGS.get(name) or GAP)
            return mark, behind if is_paired else token.end()
        if name == "sup" and is_paired:
            return superscript(self.words(token.end(), inner_end, depth + 1)), behind
        if name == "li" and is_closing:
            return "\n", token.end()
        return _SHOWN_TAGS.get(name, HOLE), token.end()

    def _line(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        kind, behind = token.lastgroup, token.end()
        if kind == "heading":
            return f"\n{PARAGRAPH}", behind
        if kind == "table":
            _, table_end = self._closings.get(token.start(), (0, end + 1))
            return f"\n{PARAGRAPH}", table_end if table_end <= end else self._unclosed_table_end(behind, end)
        if kind == "preformatted" and self.text.startswith("[[", behind):
            target = self.text[behind + 2 : self._name(behind + 2, end)]
            return ("\n" if is_image_link(target, self._site) else f"\n{LIST_MARK}"), behind
        return f"\n{LIST_MARK}", behind

    def _unclosed_table_end(self, at: int, end: int) -> int:
        """Return the end of a table that is not closed: a template, a heading, or a blank line behind the last row."""
        template = _TABLE_END_TEMPLATE.search(self.text, at, end)
        if template is not None and template[0].startswith("{{"):
            return template.end()
        border = _TABLE_END.search(self.text, at, end)
        return border.start() if border is not None else end
