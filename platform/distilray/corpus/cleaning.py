"""Wikitext into the words that a reader sees in running text.

Three steps: extension tags are cut out first, as MediaWiki does; mwparserfromhell cuts what is left into tokens; their
words are lines, of which those of prose become paragraphs.
"""

from mwparserfromhell.parser import CTokenizer, ParserError

from distilray.corpus.wikitext.arguments import HOLE
from distilray.corpus.wikitext.extensions import cut_extensions, restore_protected
from distilray.corpus.wikitext.paragraphs import prose
from distilray.corpus.wikitext.sections import cut_back_matter
from distilray.corpus.wikitext.sites import ENGLISH, Site
from distilray.corpus.wikitext.words import shown_words

if CTokenizer is None:  # a build without the C extension: the same tokens, twenty times slower
    from mwparserfromhell.parser.tokenizer import Tokenizer as _Tokenizer
else:
    _Tokenizer = CTokenizer

# Pairs for which the tokenizer reads to the end of the page each time one is opened and not closed. No real page has a
# thousand of those; a hostile one would take hours.
_PAIRS = (("{|", "|}"), ("[http", "]"), ("<div", "</div"))
_MAX_UNCLOSED = 1000

__all__ = ["HOLE", "MarkupError", "clean_wikitext"]


class MarkupError(ValueError):
    """Wikitext that the parser cannot read."""


def clean_wikitext(wikitext: str, site: Site = ENGLISH) -> str:
    """The prose of a page: paragraphs with a blank line between, without lists, tables, headings and references.

    Where a sentence shows something that is not words (a formula, code, a price of today) it has `HOLE` in its place,
    so that the caller can leave that sentence out.

    Raises:
        MarkupError: the parser gives up on it.
    """
    text = cut_back_matter(cut_extensions(wikitext))
    for opened, closed in _PAIRS:
        if text.count(opened) - text.count(closed) > _MAX_UNCLOSED:
            raise MarkupError(f"more than {_MAX_UNCLOSED:,} of '{opened}' are not closed")
    try:
        # No context to begin with; quotes of bold and italic stay text.
        tokens = _Tokenizer().tokenize(text, 0, True)
    except (ParserError, RecursionError) as error:
        raise MarkupError(str(error)) from None
    return restore_protected(prose(shown_words(tokens)))
