# ruff: noqa: RUF001 - punctuation of Chinese is the subject here

import json
import os
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.decontamination import (
    EvaluationNgrams,
    evaluation_files,
    matching_sets,
    matching_sets_by_sentence,
    read_evaluation_ngrams,
    read_texts,
)
from distilray.errors import InputError

WORDS = [f"w{number}" for number in range(40)]
GLUE = os.environ.get("DISTILRAY_GLUE_DIR")


def write(path: Path, data: str | bytes = "text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@pytest.fixture(scope="module")
def ngrams(tmp_path_factory: pytest.TempPathFactory) -> EvaluationNgrams:
    folder = tmp_path_factory.mktemp("evaluation")
    write(folder / "A" / "dev.tsv", "index\tsentence\n0\t" + " ".join(WORDS[:20]) + "\n")
    write(folder / "B" / "test.txt", " ".join(WORDS[10:30]) + "\nshort\n")
    return read_evaluation_ngrams([str(folder)], ngram_words=13)


@given(before=st.integers(0, 30), after=st.integers(0, 30), start=st.integers(0, 7), shared=st.integers(12, 13))
def test_13_shared_words_match_at_any_position(
    ngrams: EvaluationNgrams, before: int, after: int, start: int, shared: int
) -> None:
    text = ["x"] * before + WORDS[start : start + shared] + ["y"] * after
    assert matching_sets(ngrams, [" ".join(text)]) == int(shared == 13)


def test_the_words_of_two_fields_are_no_ngram(tmp_path: Path) -> None:
    path = write(tmp_path / "set.tsv", " ".join(WORDS[:13]) + "\t" + " ".join(WORDS[13:26]))
    assert matching_sets(read_evaluation_ngrams([path], ngram_words=13), [" ".join(WORDS[1:26])]) == 1
    assert matching_sets(read_evaluation_ngrams([path], ngram_words=13), [" ".join(WORDS[1:25])]) == 0


def test_a_mask_has_a_bit_for_every_set_with_the_ngram(ngrams: EvaluationNgrams, tmp_path: Path) -> None:
    assert (ngrams.names, len(ngrams.hashes), len(ngrams.sets)) == (("A", "B"), 16, 16)
    texts = [" ".join(WORDS[at : at + 13]) for at in (0, 17, 8)]
    assert [matching_sets(ngrams, [text]) for text in texts] == [0b01, 0b10, 0]
    assert matching_sets(ngrams, [", ".join(WORDS[:13]).upper() + "!"]) == 0b01
    paths = [write(tmp_path / name, " ".join(WORDS)) for name in ("one.txt", "two.txt")]
    assert matching_sets(read_evaluation_ngrams(paths, ngram_words=13), [" ".join(WORDS)]) == 0b11


@pytest.fixture(scope="module")
def trigrams(tmp_path_factory: pytest.TempPathFactory) -> EvaluationNgrams:
    return read_evaluation_ngrams([write(tmp_path_factory.mktemp("small") / "set.txt", "a b c a")], ngram_words=3)


@given(st.lists(st.lists(st.sampled_from("abcx"), max_size=9), max_size=6))
def test_ngrams_match_across_sentences_and_name_each_sentence_with_one_of_their_words(
    trigrams: EvaluationNgrams, words: list[list[str]]
) -> None:
    text = "".join(map("".join, words))
    starts = [at for at in range(len(text)) if text[at : at + 3] in ("abc", "bca")]
    ends = accumulate(map(len, words))
    expected = [
        int(any(at < end and end - len(each) < at + 3 for at in starts)) for each, end in zip(words, ends, strict=True)
    ]
    sentences = [" ".join(each) for each in words]
    assert matching_sets_by_sentence(trigrams, sentences) == expected
    assert matching_sets(trigrams, sentences) == int(bool(starts))


def test_a_document_shorter_than_an_ngram_matches_nothing(ngrams: EvaluationNgrams) -> None:
    assert matching_sets(ngrams, []) == 0
    assert matching_sets_by_sentence(ngrams, ["", "Short."]) == [0, 0]


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


UNSPACED = {
    "zh": "这个港口建于二十世纪初，位于海边的一个小城市。",
    "ja": "この港は二十世紀の初めに海辺の小さな町に建てられた。",
    "th": "ท่าเรือแห่งนี้สร้างขึ้นเมื่อต้นศตวรรษที่ยี่สิบในเมืองเล็กริมทะเล",
}


@pytest.mark.parametrize("language", UNSPACED)
def test_a_sentence_of_an_evaluation_set_is_found_in_a_script_without_spaces(tmp_path: Path, language: str) -> None:
    sentence = UNSPACED[language]
    ngrams = read_evaluation_ngrams([write(tmp_path / "dev.txt", sentence)], ngram_words=13)
    before, after = sentence[:6][::-1], sentence[-6:][::-1]
    assert matching_sets_by_sentence(ngrams, [before, f"{before}{sentence}{after}", after]) == [0, 1, 0]
    assert not matching_sets(ngrams, [sentence[: len(sentence) // 2], before, sentence[len(sentence) // 2 :]])


FILES = {
    "set.tsv": ('a "quote\tb\r\n\tc', {'a "quote', "b", "c"}),
    "set.csv": ('a,"b, with\na break"\nc', {"a", "b, with\na break", "c"}),
    "set.jsonl": (json.dumps({"a": "one", "b": [["two"], {"c": "three"}], "n": 4}) + "\n\n", {"one", "two", "three"}),
    "set.ndjson": ('["one"]\n"two"', {"one", "two"}),
    "set.txt": ("\ufeffone\ntwo", {"one", "two"}),
    "SET.TXT": ("one", {"one"}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_text_of_a_file_is_read(tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    assert {text.strip() for text in read_texts(write(tmp_path / name, data))} - {""} == expected


def test_every_text_column_of_parquet_is_read(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["one", None], pa.large_string()),
        "many": [["two", "three"], []],
        "answers": [{"text": ["four"], "start": [1]}, {"text": [], "start": []}],
        "label": pa.array(["five", "five"]).dictionary_encode(),
        "number": [1, 2],
    }
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    assert set(read_texts(str(tmp_path / "set.parquet"))) == {"one", "two", "three", "four", "five"}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("set.txt", b"\xff\xfe", ""),
        ("set.jsonl", b'"a"\n\n{"b"', "line 3"),
        ("set.csv", b"a,\xff", ""),
        ("set.parquet", b"PAR1", ""),
    ],
)
def test_content_that_differs_from_the_suffix_is_refused(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    message = rf"^[^\n]*{name}: cannot be read as [^\n]*{reason}[^\n]*; fix the file or leave it out$"
    with pytest.raises(InputError, match=message):
        list(read_texts(write(tmp_path / name, data)))


@pytest.mark.parametrize(
    ("names", "path", "expected"),
    [
        (
            [
                "M/dev.tsv",
                "M/train.tsv",
                "M/Test.csv",
                "M/dev_matched.tsv",
                "M/README.txt",
                "M/validation-0.parquet",
                "M/dev.md",
            ],
            "",
            [("M", "Test.csv"), ("M", "dev.tsv"), ("M", "dev_matched.tsv"), ("M", "validation-0.parquet")],
        ),
        (["g/RTE/dev.tsv", "g/CoLA/test.tsv"], "g", [("CoLA", "test.tsv"), ("RTE", "dev.tsv")]),
        (["g/RTE/dev.tsv", "g/CoLA/test.tsv"], "g/RTE", [("RTE", "dev.tsv")]),
        (["sets/squad.jsonl"], "sets/squad.jsonl", [("squad", "squad.jsonl")]),
        (["sets/train.tsv"], "sets/train.tsv", [("sets", "train.tsv")]),
        (["sets/dev_matched.tsv"], "sets/dev_matched.tsv", [("sets", "dev_matched.tsv")]),
        (["sets/test2%20.txt"], "sets/test2%20.txt", [("test2%20", "test2%20.txt")]),
        (["a.txt", "b.txt", "c.md"], "*", [("a", "a.txt"), ("b", "b.txt")]),
    ],
    ids=["evaluated splits", "folders", "a folder", "a file", "a split", "a part of a split", "no split", "a pattern"],
)
def test_a_set_has_the_name_of_its_folder_or_file(
    tmp_path: Path, names: list[str], path: str, expected: list[tuple[str, str]]
) -> None:
    for name in names:
        write(tmp_path / name)
    assert [(name, Path(uri).name) for name, uri in evaluation_files(str(tmp_path / path))] == expected


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("RTE/train.tsv", "", "no file name starts with dev, test or validation; list the files"),
        ("dev.md", "dev.md", r"dev\.md: no evaluation file found; .*\.tsv"),
    ],
)
def test_a_path_without_an_evaluation_file_is_refused(tmp_path: Path, name: str, path: str, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        evaluation_files(str(tmp_path / path))
