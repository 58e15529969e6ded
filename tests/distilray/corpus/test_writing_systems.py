# ruff: noqa: RUF001 - punctuation of Chinese and Japanese is the subject here

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.writing_systems import count_words, join_lines


@pytest.mark.parametrize(
    ("sentences", "words"),
    [
        ([], 0),
        (["The dog's tail."], 3),
        (["The dog's tail.", "Ja — so"], 6),
        (["这个港口。", "它很大！"], 7),
        (["建于 1990 年。"], 4),
        (["これはカメラです。"], 4),
        (["ท่าเรือเก่า"], 3),
        (["वह पुराना है।"], 3),
    ],
)
def test_words_are_counted_between_spaces_or_by_characters(sentences: list[str], words: int) -> None:
    assert count_words(sentences) == words


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["the old", "dog"], "the old dog"),
        (["这个古老的", "港口"], "这个古老的港口"),
        (["これは古い", "カメラです。", "とても"], "これは古いカメラです。とても"),
        (["它建于1990年，", "很大"], "它建于1990年，很大"),
        (["在 Linux", "上"], "在 Linux 上"),
        (["이것은", "항구이다"], "이것은 항구이다"),
    ],
)
def test_a_line_break_becomes_a_space_except_inside_chinese_and_japanese(lines: list[str], text: str) -> None:
    assert join_lines(lines) == text


@given(st.lists(st.text(alphabet="aB.é, ", min_size=1), max_size=5))
def test_lines_of_other_scripts_are_joined_by_spaces(lines: list[str]) -> None:
    assert join_lines(lines) == " ".join(lines)
