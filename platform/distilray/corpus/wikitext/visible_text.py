"""Visible text of a page, line by line.

After `match_brackets` has matched all brackets, the page is read once from left to right. Invisible content is skipped
as a whole, and unclosed brackets are treated as text. No step looks back or searches the rest of the page, so parsing
takes linear time.
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

_MAX_DEPTH = 40  # of nested brackets
_BLOCK = r"blockquote|center|div|p|table|t[dhr]|li|ul|ol|dl|h[1-6]|hr|noinclude|includeonly|onlyinclude"
_MARKUP = re.compile(
    r"\[\[(?P<target>[^\[\]{}|\n<]{1,300})(?:\|(?P<label>[^\[\]{}\n<]{0,300}))?\]\]"  # without nested brackets
    r"|\{\{|\[\[|\[(?=(?:(?:https?|ftp):)?//|mailto:)"
    r"|&(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});"
    r"|<(?P<closes>/?)(?P<tag>[a-zA-Z][a-zA-Z0-9]*)(?=[\s/>])(?P<attributes>[^<>]{0,1000})>"
    r"|\n(?:(?P<table>[ \t:]*\{\|)|(?P<list>[*\#:;]+)|(?P<heading>={1,6}[^\n]+?=[ \t]*(?=\n|\Z))"
    rf"|(?P<preformatted>[ ]+(?!\{{[{{|]|</?(?:{_BLOCK})\b|\s|\Z)))"
)
_ARGUMENT_TOKEN = re.compile(r"\||=|\{\{|\[\[|\n[ \t:]*\{\|")
_NAME = re.compile(r"[^|{}\[\]<]*")
_URL = re.compile(r"[^\s\[\]<>\"]*\s*")
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
    # Unpaired extension tags.
    **dict.fromkeys(["ref", "references", "nowiki", "gallery", "poem", "pre"], GAP),
    "br": " ", "li": f"\n{LIST_MARK}", "dt": f"\n{LIST_MARK}", "dd": f"\n{LIST_MARK}",
}  # fmt: skip


def visible_text(wikitext: str, site: Site, rules: TemplateRules) -> str:
    """Return the visible text of `wikitext`, with placeholders for everything else.

    `LIST_MARK` starts a list item or preformatted line. `HOLE` and `UNKNOWN` replace text that cannot be derived
    from the page, and `GAP` replaces invisible content.

    Args:
        wikitext: source text without comments and extension tags.
        site: wiki with the names of its namespaces.
        rules: rules for the text of templates.
    """
    page = _Page(f"\n{wikitext}", site, rules)
    return page.render(0, len(page.text), 0)


class _Page:
    def __init__(self, text: str, site: Site, rules: TemplateRules) -> None:
        self.text = text
        self._site, self._rules = site, rules
        self._closings: Closings = match_brackets(text)
        self._invisible_until = -1  # end of the invisible content at the start of a line
        self._readers: dict[str, Callable[[re.Match[str], int, int], tuple[str, int]]] = {
            "{": self._braces, "[": self._brackets, "&": self._entity, "<": self._tag, "\n": self._line,
        }  # fmt: skip

    def render(self, position: int, end: int, depth: int) -> str:
        """Return the visible text between two positions."""
        if depth > _MAX_DEPTH:
            return HOLE
        text, readers, search = self.text, self._readers, _MARKUP.search
        pieces: list[str] = []
        while (token := search(text, position, end)) is not None:
            start = token.start()
            if start > position:
                pieces.append(text[position:start])
            piece, position = readers[text[start]](token, end, depth)
            pieces.append(piece)
        pieces.append(text[position:end])
        return "".join(pieces)

    def _braces(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        start = token.start()
        inner_end, after = self._closings.get(start, (end, end + 1))
        if after > end:
            return "{", start + 1
        if after - inner_end == 3:  # a template parameter shows its default
            _, *default = self._split(start + 3, inner_end)
            return (self.render(default[0][0], inner_end, depth + 1) if default else "") or GAP, after
        starts_line = self._starts_line(start)
        text = self._template(start, inner_end, depth, starts_line)
        if starts_line and not text.strip(GAP):
            self._invisible_until = after
        return text, after

    def _starts_line(self, start: int) -> bool:
        return self.text[start - 1] == "\n" or self._invisible_until == start

    def _template(self, start: int, inner_end: int, depth: int, starts_line: bool) -> str:
        name_end = self._name_end(start + 2, inner_end)
        name = self.text[start + 2 : name_end]
        function, colon, _ = name.partition(":")
        rule = self._rules.rule(name)
        if rule is nothing:
            return GAP
        if rule is None and colon and (transform := self._rules.function(function)):
            first, _, last = self._split(start + 3 + len(function), inner_end)[0]
            return transform(self.render(first, last, depth + 1).strip()) or GAP
        if rule is None:
            if starts_line and "\n" in self.text[start:inner_end] and not self._continues_sentence(inner_end + 2):
                return ""  # a block such as an infobox
            return unknown_template(name)
        text = rule(self._arguments(name_end + 1, inner_end, depth))
        if rule is fraction and self.text[start - 1].isdigit():
            text = f" {text}"
        return text or GAP

    def _continues_sentence(self, at: int) -> bool:
        following = self.text[at : at + 3].lstrip(" ")[:1]
        return following.islower() or following in (",", ";", ")")

    def _name_end(self, at: int, end: int) -> int:
        """Return the end of the name of a template or page."""
        name = _NAME.match(self.text, at, end)
        return name.end() if name is not None else at

    def _arguments(self, at: int, end: int, depth: int) -> Arguments:
        values: dict[str, str] = {}
        number = 0
        for first, equals, last in self._split(at, end) if at <= end else ():
            if equals >= 0:
                key, first = self.render(first, equals, depth + 1).strip(), equals + 1
            else:
                number += 1
                key = str(number)
            values[key] = self.render(first, last, depth + 1).strip(f" \t\n{GAP}")
        return Arguments(values)

    def _split(self, at: int, end: int) -> list[tuple[int, int, int]]:
        """Return start, first `=` (or -1) and end of each argument. Separators in nested brackets do not count."""
        spans: list[tuple[int, int, int]] = []
        start, equals = at, -1
        while (token := _ARGUMENT_TOKEN.search(self.text, at, end)) is not None:
            at = token.end()
            if token[0] == "|":
                spans.append((start, equals, token.start()))
                start, equals = at, -1
            elif token[0] == "=":
                equals = token.start() if equals < 0 else equals
            else:
                _, after = self._closings.get(token.start(), (0, 0))
                at = after if token.start() < after <= end else token.start() + 1
        return [*spans, (start, equals, end)]

    def _brackets(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        start = token.start()
        if token["target"]:
            text = link_text(token["target"], lambda: token["label"], self._site)
            if not text and self._starts_line(start):
                self._invisible_until = token.end()
            if "&" in text:
                text = self.render(*token.span("label" if token["label"] else "target"), depth + 1)
            return text or GAP, token.end()
        inner_end, after = self._closings.get(start, (end, end + 1))
        if after > end:
            return "[", start + 1
        if token[0] == "[":
            url = _URL.match(self.text, start + 1, inner_end)
            assert url is not None, "the pattern matches the empty string"
            return self.render(url.end(), inner_end, depth + 1) or GAP, after
        target_end = self._name_end(start + 2, inner_end)
        if self.text[target_end] != "|" and target_end < inner_end:  # a template in the title of the page
            target_end = self._split(start + 2, inner_end)[0][2]
        if target_end < inner_end:
            target = self.text[start + 2 : target_end]
            text = link_text(target, lambda: self.render(target_end + 1, inner_end, depth + 1), self._site)
        else:
            text = link_text(self.render(start + 2, inner_end, depth + 1), lambda: None, self._site)
        if not text and self._starts_line(start):
            self._invisible_until = after
        return text.strip("\n") or GAP, after

    def _entity(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        character = html.unescape(token[0])
        if character == "\ufffd":  # half of a surrogate pair
            return "", token.end()
        return character if character == "&" else protect_markup(character), token.end()

    def _tag(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        name, start, is_closing = token["tag"].lower(), token.start(), bool(token["closes"])
        is_hidden = not is_closing and "none" in token["attributes"] and _HIDING_STYLE.search(token["attributes"])
        inner_end, after = self._closings.get(start, (end, end + 1))
        is_paired = after <= end
        if name in _DROPPED_TAGS or is_hidden:
            replacement = _DROPPED_TAGS.get(name, _SHOWN_TAGS.get(name) or GAP)
            return replacement, after if is_paired else token.end()
        if name == "sup" and is_paired:
            return superscript(self.render(token.end(), inner_end, depth + 1)), after
        if name == "li" and is_closing:
            return "\n", token.end()
        return _SHOWN_TAGS.get(name, HOLE), token.end()

    def _line(self, token: re.Match[str], end: int, depth: int) -> tuple[str, int]:
        kind, after = token.lastgroup, token.end()
        if kind == "heading":
            return f"\n{PARAGRAPH}", after
        if kind == "table":
            _, table_end = self._closings.get(token.start(), (0, end + 1))
            return f"\n{PARAGRAPH}", table_end if table_end <= end else self._unclosed_table_end(after, end)
        if kind == "preformatted" and self.text.startswith("[[", after):
            target = self.text[after + 2 : self._name_end(after + 2, end)]
            return ("\n" if is_image_link(target, self._site) else f"\n{LIST_MARK}"), after
        return f"\n{LIST_MARK}", after

    def _unclosed_table_end(self, at: int, end: int) -> int:
        """Return the end of an unclosed table: a closing template, a heading, or a blank line after the last row."""
        template = _TABLE_END_TEMPLATE.search(self.text, at, end)
        if template is not None and template[0].startswith("{{"):
            return template.end()
        border = _TABLE_END.search(self.text, at, end)
        return border.start() if border is not None else end
