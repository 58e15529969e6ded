from pathlib import Path

import numpy as np
import pytest

from distilray.errors import InputError
from distilray.evaluation import next_sentence_task
from distilray.evaluation.next_sentence_task import write_next_sentence_task
from distilray.finetuning.files import load_task
from distilray.runtime.run_folder import read_manifest
from jobs import build_next_sentence_task
from tests.tiny.corpus import write_corpus
from tests.tiny.recipes import write_recipe

SIZES = {"train": 60, "dev": 21, "test": 20}
DOCUMENTS, SENTENCES = 60, 9


def sentence(document: int, number: int, words: int = 6) -> str:
    """Return a sentence that contains its document and position."""
    return " ".join([f"d{document}", f"s{number}", *["word"] * (words - 2)])


def place(text: str) -> tuple[int, int]:
    """Return document and position of a sentence."""
    document, number = text.split()[:2]
    return int(document[1:]), int(number[1:])


def documents_of(count: int = DOCUMENTS) -> list[list[str]]:
    return [[sentence(document, number) for number in range(SENTENCES)] for document in range(count)]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "run", sentences=documents_of())


def rows_of(glue_dir, split):
    lines = (Path(glue_dir) / "Follows" / f"{split}.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines[1:]]


def files_of(glue_dir):
    return {file.name: file.read_bytes() for file in (Path(glue_dir) / "Follows").iterdir()}


@pytest.fixture(scope="module")
def glue_dir(corpus_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    write_next_sentence_task(corpus_dir, str(folder), seed=3, **SIZES)
    return folder


def test_the_task_is_read_back_as_a_task_of_glue(glue_dir):
    task = load_task(str(glue_dir), "follows")
    train = rows_of(glue_dir, "train")
    assert (len(task.train.first), len(task.dev["dev"].first)) == (SIZES["train"], SIZES["dev"])
    assert task.train.first == [row[1] for row in train]
    assert task.train.second == [row[2] for row in train]
    assert [task.task.labels[label] for label in task.train.labels] == [row[3] for row in train]


def test_the_test_split_has_no_label(glue_dir):
    assert (glue_dir / "Follows/test.tsv").read_text().splitlines()[0] == "index\tsentence1\tsentence2"
    assert {len(row) for row in rows_of(glue_dir, "test")} == {3}


def test_rows_are_numbered(glue_dir):
    for split, size in SIZES.items():
        assert [row[0] for row in rows_of(glue_dir, split)] == [str(number) for number in range(size)]


def test_half_of_the_pairs_follow_in_an_order_that_is_no_pattern(glue_dir):
    for split, more in (("train", 30), ("dev", 11)):
        labels = np.array([row[3] == "follows" for row in rows_of(glue_dir, split)])
        assert labels.sum() == more
        changes = (labels[1:] != labels[:-1]).mean()
        assert 0.25 < changes < 0.75


def test_what_follows_is_the_next_sentence_and_what_does_not_is_of_another_document(glue_dir):
    for split in ("train", "dev"):
        for _, first, second, label in rows_of(glue_dir, split):
            (document, number), other = place(first), place(second)
            assert (other == (document, number + 1)) if label == "follows" else (other[0] != document)


def test_a_second_sentence_that_does_not_follow_is_one_that_follows_another(glue_dir):
    # Else sentence B alone would tell: none of them begins a document.
    assert all(place(row[2])[1] > 0 for split in SIZES for row in rows_of(glue_dir, split))


def test_no_document_is_in_two_splits(glue_dir):
    found = {split: {place(text)[0] for row in rows_of(glue_dir, split) for text in row[1:3]} for split in SIZES}
    assert min(map(len, found.values())) > 3
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


def test_no_pair_that_follows_comes_twice(glue_dir):
    firsts = [row[1] for split in SIZES for row in rows_of(glue_dir, split)]
    assert len(firsts) == len(set(firsts))


def test_sentences_of_other_lengths_are_left_out_and_counted(tmp_path):
    lengths = (4, 5, 8, 8, 9, 5, 6)  # of 5 to 8 words: the pairs 5 8, 8 8 and 5 6
    documents = [[sentence(document, at, words) for at, words in enumerate(lengths)] for document in range(30)]
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=documents)
    _, counts = write_next_sentence_task(
        corpus_dir, str(tmp_path / "glue"), seed=3, train=20, dev=6, test=6, words=(5, 8)
    )
    assert sum(counts["usable"].values()) == 30 * 3
    assert counts["too_short_or_long"] == 30 * 3
    rows = [row for split in ("train", "dev", "test") for row in rows_of(tmp_path / "glue", split)]
    assert {len(text.split()) for row in rows for text in row[1:3]} == {5, 6, 8}


def test_a_tab_or_a_line_break_in_a_sentence_is_a_space(tmp_path):
    broken = [[text.replace(" word", "\tword\n", 1) for text in document] for document in documents_of()]
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=broken)
    write_next_sentence_task(corpus_dir, str(tmp_path / "glue"), seed=3, **SIZES)
    assert {len(row) for row in rows_of(tmp_path / "glue", "train")} == {4}
    assert all(text == " ".join(text.split()) for row in rows_of(tmp_path / "glue", "train") for text in row[1:3])


def test_equal_corpora_give_equal_files_however_they_are_stored(glue_dir, tmp_path):
    one = write_corpus(tmp_path / "one", files=1, row_group_size=100, sentences=documents_of())
    write_next_sentence_task(one, str(tmp_path / "glue"), seed=3, **SIZES)
    assert files_of(tmp_path / "glue") == files_of(glue_dir)


def test_another_seed_gives_other_pairs(corpus_dir, glue_dir, tmp_path):
    write_next_sentence_task(corpus_dir, str(tmp_path), seed=4, **SIZES)
    assert {row[1] for row in rows_of(tmp_path, "train")} != {row[1] for row in rows_of(glue_dir, "train")}


def test_the_size_of_the_buffer_does_not_change_the_files(corpus_dir, glue_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(next_sentence_task, "_BUFFER_FACTOR", 1)
    write_next_sentence_task(corpus_dir, str(tmp_path), seed=3, **SIZES)
    assert files_of(tmp_path) == files_of(glue_dir)


def test_a_corpus_that_is_too_small_is_refused_and_nothing_is_written(corpus_dir, tmp_path):
    told = r"the documents for train have \d+ pairs of sentences of 5 to 40 words; 500 from"
    with pytest.raises(InputError, match=told):
        write_next_sentence_task(corpus_dir, str(tmp_path / "glue"), seed=3, train=500, dev=21, test=20)
    assert not (tmp_path / "glue").exists()


def test_a_split_of_one_document_is_refused(tmp_path):
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=documents_of(3))
    with pytest.raises(InputError, match="from two or more documents"):
        write_next_sentence_task(corpus_dir, str(tmp_path / "glue"), seed=3, train=2, dev=2, test=2)


def test_copies_of_one_document_are_refused(tmp_path):
    copies = [[sentence(0, 0), sentence(0, 1)]] * 60
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=copies)
    with pytest.raises(InputError, match="nearly all of its pairs"):
        write_next_sentence_task(corpus_dir, str(tmp_path / "glue"), seed=3, train=6, dev=6, test=6)


def recipe_of(folder, corpus_dir, **changes):
    return write_recipe(folder, run_dir=str(folder / "run"), corpus_dir=corpus_dir, **{**SIZES, **changes})


def test_the_job_leaves_a_complete_run_and_is_skipped_when_it_is_run_again(corpus_dir, tmp_path, capsys):
    recipe = recipe_of(tmp_path, corpus_dir)
    assert build_next_sentence_task.main(["--recipe", recipe]) == 0
    assert "60 train, 21 dev, 20 test pairs of 480 usable ones" in capsys.readouterr().out
    content = read_manifest(str(tmp_path / "run"))["content"]
    assert {name: entry["rows"] for name, entry in content["outputs"].items()} == {
        f"glue/Follows/{split}.tsv": rows for split, rows in SIZES.items()
    }
    for name, entry in content["outputs"].items():
        assert (tmp_path / "run" / name).stat().st_size == entry["bytes"]
    assert build_next_sentence_task.main(["--recipe", recipe]) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_writes_nothing(corpus_dir, tmp_path, capsys):
    assert build_next_sentence_task.main(["--recipe", recipe_of(tmp_path, corpus_dir), "--dry-run"]) == 0
    assert "60 documents" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"min_words": 9, "max_words": 8}, "min_words: 9 is above max_words"),
        ({"corpus_dir": "nowhere"}, "nowhere"),
        ({"train": 5000}, "pairs of sentences"),
    ],
)
def test_what_cannot_be_made_is_one_line(corpus_dir, tmp_path, capfd, changes, told):
    recipe = recipe_of(tmp_path, **{"corpus_dir": corpus_dir, **changes})
    assert build_next_sentence_task.main(["--recipe", recipe]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
