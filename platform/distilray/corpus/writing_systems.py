"""Writing systems without spaces between words: character classes, word counts and line joining."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
# Letters and marks of Thai, Lao, Tibetan, Burmese and Khmer, without digits and punctuation.
SOUTH_EAST_ASIAN = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u0f40-\u0fbc\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
)
UNSPACED = HAN + KANA + SOUTH_EAST_ASIAN

# Combining marks of all scripts, such as vowel signs, and the zero-width joiner and non-joiner: parts of words.
COMBINING_MARKS = (
    "".join(chr(code) for code in range(0x300, 0xAC00) if unicodedata.category(chr(code))[0] == "M") + "\u200c\u200d"
)

# Characters counted as one word. Word processors count each Han character; words in the other scripts are longer.
CHARACTERS_PER_WORD = {HAN: 1, KANA: 2, SOUTH_EAST_ASIAN: 4}

_UNSPACED = re.compile(f"[{UNSPACED}]")
_COUNTERS = [(re.compile(f"[{letters}]"), per_word) for letters, per_word in CHARACTERS_PER_WORD.items()]
_WORD = re.compile(r"\S*\w\S*")
_WIDE_PUNCTUATION = "\u3001-\u3004\u3008-\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_NO_SPACE = re.compile(
    rf"(?<=[{HAN}{KANA}])\n(?=[{HAN}{KANA}])|(?<=[{_WIDE_PUNCTUATION}])\n|\n(?=[{_WIDE_PUNCTUATION}])"
)


def count_words(sentences: Sequence[str]) -> int:
    """Count the words of sentences with single spaces. Scripts without spaces are counted by `CHARACTERS_PER_WORD`."""
    text = " ".join(sentences)
    if text.isascii() or not _UNSPACED.search(text):
        return text.count(" ") + 1 if sentences else 0
    unspaced = sum(-(-len(letters.findall(text)) // per_word) for letters, per_word in _COUNTERS)
    return unspaced + len(_WORD.findall(_UNSPACED.sub(" ", text)))


def join_lines(lines: Iterable[str]) -> str:
    """Join the lines of a paragraph with spaces, or with nothing within Chinese or Japanese text."""
    text = "\n".join(lines)
    return (text if text.isascii() else _NO_SPACE.sub("", text)).replace("\n", " ")
