# ruff: noqa: RUF001 - punctuation of Chinese is the subject here

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.decontamination import (
    EvaluationNgrams,
    matching_sets,
    matching_sets_by_sentence,
    read_evaluation_ngrams,
)
from distilray.errors import InputError

WORDS = [f"w{number}" for number in range(40)]
GLUE = os.environ.get("DISTILRAY_GLUE_DIR")


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def ngrams(tmp_path_factory: pytest.TempPathFactory) -> EvaluationNgrams:
    folder = tmp_path_factory.mktemp("evaluation")
    write(folder / "A" / "dev.tsv", "index\tsentence\n0\t" + " ".join(WORDS[:20]) + "\n")
    write(folder / "B" / "test.txt", " ".join(WORDS[10:30]) + "\nshort\n")
    return read_evaluation_ngrams([str(folder)], ngram_words=13)


@given(before=st.integers(0, 30), after=st.integers(0, 30), start=st.integers(0, 7))
def test_13_words_are_found_wherever_they_lie(ngrams: EvaluationNgrams, before: int, after: int, start: int) -> None:
    text = ["x"] * before + WORDS[start : start + 13] + ["y"] * after
    assert matching_sets(ngrams, [" ".join(text)]) == 1


@given(before=st.integers(0, 30), after=st.integers(0, 30), start=st.integers(0, 18))
def test_12_words_are_not_found(ngrams: EvaluationNgrams, before: int, after: int, start: int) -> None:
    text = ["x"] * before + WORDS[start : start + 12] + ["y"] * after
    assert matching_sets(ngrams, [" ".join(text)]) == 0


@given(st.lists(st.integers(1, 29), max_size=6).map(sorted))
def test_ngrams_run_on_across_sentences(ngrams: EvaluationNgrams, cuts: list[int]) -> None:
    sentences = [" ".join(WORDS[a:b]) for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
    assert matching_sets(ngrams, sentences) == 0b11


def test_case_and_punctuation_make_no_difference(ngrams: EvaluationNgrams) -> None:
    assert matching_sets(ngrams, [", ".join(WORDS[:13]).upper() + "!"]) == 1


def test_the_words_of_two_fields_are_no_ngram(tmp_path: Path) -> None:
    path = write(tmp_path / "set.tsv", " ".join(WORDS[:13]) + "\t" + " ".join(WORDS[13:26]))
    assert matching_sets(read_evaluation_ngrams([path], ngram_words=13), [" ".join(WORDS[1:26])]) == 1
    assert matching_sets(read_evaluation_ngrams([path], ngram_words=13), [" ".join(WORDS[1:25])]) == 0


def test_a_mask_names_every_set_that_holds_the_ngram(ngrams: EvaluationNgrams) -> None:
    assert ngrams.names == ("A", "B")
    found = [matching_sets(ngrams, [" ".join(WORDS[at : at + 13])]) for at in (0, 17, 8)]
    assert found == [0b01, 0b10, 0]


def test_an_ngram_of_two_sets_is_counted_for_both(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, " ".join(WORDS)) for name in ("one.txt", "two.txt")]
    assert matching_sets(read_evaluation_ngrams(paths, ngram_words=13), [" ".join(WORDS)]) == 0b11


def test_each_sentence_with_a_word_of_a_shared_ngram_is_named(ngrams: EvaluationNgrams) -> None:
    sentences = ["Before.", " ".join(WORDS[:6]), "...", " ".join(WORDS[6:13]) + " and", "After all."]
    assert matching_sets_by_sentence(ngrams, sentences) == [0, 1, 1, 1, 0]


@pytest.fixture(scope="module")
def trigrams(tmp_path_factory: pytest.TempPathFactory) -> EvaluationNgrams:
    return read_evaluation_ngrams([write(tmp_path_factory.mktemp("small") / "set.txt", "a b c a")], ngram_words=3)


@given(st.lists(st.lists(st.sampled_from("abcx"), max_size=9).map(" ".join), max_size=6))
def test_a_document_matches_when_one_of_its_sentences_does(trigrams: EvaluationNgrams, sentences: list[str]) -> None:
    masks = matching_sets_by_sentence(trigrams, sentences)
    assert len(masks) == len(sentences)
    assert (matching_sets(trigrams, sentences) != 0) == any(masks)


@given(st.lists(st.sampled_from("abcx"), max_size=9))
def test_what_is_found_is_what_stands_in_the_text(trigrams: EvaluationNgrams, words: list[str]) -> None:
    text = "".join(words)
    assert matching_sets(trigrams, [" ".join(words)]) == int("abc" in text or "bca" in text)


def test_a_document_shorter_than_an_ngram_matches_nothing(ngrams: EvaluationNgrams) -> None:
    assert matching_sets(ngrams, []) == 0
    assert matching_sets_by_sentence(ngrams, ["", "Short."]) == [0, 0]


def test_hashes_are_sorted_and_each_is_there_once(ngrams: EvaluationNgrams) -> None:
    assert (ngrams.hashes[1:] > ngrams.hashes[:-1]).all()
    assert len(ngrams.hashes) == len(ngrams.sets) == 16


def test_a_path_without_an_ngram_is_refused(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.txt", " ".join(WORDS)), write(tmp_path / "bad.txt", " ".join(WORDS[:12]))
    with pytest.raises(InputError, match=r"bad\.txt: no text of 13 words; choose a smaller"):
        read_evaluation_ngrams([good, bad], ngram_words=13)


def test_more_than_64_sets_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"set{number}.txt", " ".join(WORDS)) for number in range(65)]
    assert len(read_evaluation_ngrams(paths[:64], ngram_words=13).names) == 64
    with pytest.raises(InputError, match="65 evaluation sets"):
        read_evaluation_ngrams(paths, ngram_words=13)


@pytest.mark.skipif(GLUE is None, reason="DISTILRAY_GLUE_DIR names no folder of GLUE files")
def test_a_sentence_of_glue_is_found() -> None:
    ngrams = read_evaluation_ngrams([str(GLUE)], ngram_words=8)
    line = (Path(str(GLUE)) / "RTE" / "dev.tsv").read_text().split("\n")[1].split("\t")[1]
    assert matching_sets(ngrams, ["Before it.", line, "After it."]) >> ngrams.names.index("RTE") & 1


OF_SCRIPTS_WITHOUT_SPACES = {
    "zh": "这个港口建于二十世纪初，位于海边的一个小城市。",
    "ja": "この港は二十世紀の初めに海辺の小さな町に建てられた。",
    "th": "ท่าเรือแห่งนี้สร้างขึ้นเมื่อต้นศตวรรษที่ยี่สิบในเมืองเล็กริมทะเล",
}


@pytest.mark.parametrize("language", OF_SCRIPTS_WITHOUT_SPACES)
def test_a_sentence_of_an_evaluation_set_is_found_in_a_script_without_spaces(tmp_path: Path, language: str) -> None:
    sentence = OF_SCRIPTS_WITHOUT_SPACES[language]
    ngrams = read_evaluation_ngrams([write(tmp_path / "dev.txt", sentence)], ngram_words=13)
    before, after = sentence[:6][::-1], sentence[-6:][::-1]
    assert matching_sets_by_sentence(ngrams, [before, f"{before}{sentence}{after}", after]) == [0, 1, 0]
    assert not matching_sets(ngrams, [sentence[: len(sentence) // 2], before, sentence[len(sentence) // 2 :]])
