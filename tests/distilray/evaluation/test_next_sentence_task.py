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


def sentence(document, number, words=6):
    """A sentence that contains its document and position."""
    return " ".join([f"d{document}", f"s{number}", *["word"] * (words - 2)])


def position(text):
    """Return document and position of a sentence."""
    document, number = text.split()[:2]
    return int(document[1:]), int(number[1:])


def documents(count=60):
    return [[sentence(document, number) for number in range(9)] for document in range(count)]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "run", sentences=documents())


@pytest.fixture(scope="module")
def task(corpus_dir, tmp_path_factory):
    return write(corpus_dir, tmp_path_factory.mktemp("glue"))


def write(corpus_dir, folder, *, seed=3, **changes):
    """Write the task; return the rows of each split."""
    write_next_sentence_task(corpus_dir, str(folder), seed=seed, **{**SIZES, **changes})
    texts = {split: (Path(folder) / "Follows" / f"{split}.tsv").read_text() for split in SIZES}
    return {split: [line.split("\t") for line in text.splitlines()] for split, text in texts.items()}


def test_the_files_have_the_layout_of_glue(corpus_dir, task, tmp_path):
    for split, size in SIZES.items():
        header, *rows = task[split]
        assert header == ["index", "sentence1", "sentence2", *(["label"] if split != "test" else [])]
        assert [row[0] for row in rows] == [str(number) for number in range(size)]
        assert {len(row) for row in rows} == {len(header)}
    write(corpus_dir, tmp_path)
    data = load_task(str(tmp_path), "follows")
    for split, rows in (("train", data.train), ("dev", data.dev["dev"])):
        labels = [data.task.labels[label] for label in rows.labels]
        assert list(zip(rows.first, rows.second, labels, strict=True)) == [tuple(row[1:]) for row in task[split][1:]]


def test_half_of_the_pairs_follow_each_other_and_the_others_come_from_two_documents(task):
    for split, following in (("train", 30), ("dev", 11)):
        labels = np.array([row[3] == "follows" for row in task[split][1:]])
        assert labels.sum() == following
        assert 0.25 < (labels[1:] != labels[:-1]).mean() < 0.75  # in random order
        for _, first, second, label in task[split][1:]:
            (document, number), other = position(first), position(second)
            assert (other == (document, number + 1)) if label == "follows" else (other[0] != document)
    # The second sentence alone must not reveal the label: none of them starts a document.
    assert all(position(row[2])[1] > 0 for split in SIZES for row in task[split][1:])


def test_no_first_sentence_is_repeated_and_no_document_is_in_two_splits(task):
    firsts = [row[1] for split in SIZES for row in task[split][1:]]
    assert len(firsts) == len(set(firsts))
    by_split = [{position(text)[0] for row in task[split][1:] for text in row[1:3]} for split in SIZES]
    assert min(map(len, by_split)) > 3
    assert sum(map(len, by_split)) == len(set().union(*by_split))


def test_sentences_of_other_lengths_are_counted_and_not_used(tmp_path):
    lengths = (4, 5, 8, 8, 9, 5, 6)  # of 5 to 8 words: the pairs 5 8, 8 8 and 5 6
    texts = [[sentence(document, at, words) for at, words in enumerate(lengths)] for document in range(30)]
    corpus_dir, sizes = write_corpus(tmp_path / "corpus", sentences=texts), {"train": 20, "dev": 6, "test": 6}
    _, counts = write_next_sentence_task(corpus_dir, str(tmp_path / "glue"), seed=3, words=(5, 8), **sizes)
    assert (sum(counts["usable"].values()), counts["too_short_or_long"]) == (30 * 3, 30 * 3)
    rows = [row for split in write(corpus_dir, tmp_path / "glue", words=(5, 8), **sizes).values() for row in split[1:]]
    assert {len(text.split()) for row in rows for text in row[1:3]} == {5, 6, 8}


def test_a_tab_or_a_line_break_in_a_sentence_becomes_a_space(task, tmp_path):
    broken = [[text.replace(" word", "\tword\n", 1) for text in document] for document in documents()]
    assert write(write_corpus(tmp_path / "corpus", sentences=broken), tmp_path / "glue") == task


def test_only_documents_and_seed_determine_the_files(corpus_dir, task, tmp_path, monkeypatch):
    one_file = write_corpus(tmp_path / "corpus", files=1, row_group_size=100, sentences=documents())
    assert write(one_file, tmp_path / "one file") == task
    assert write(corpus_dir, tmp_path / "seed", seed=4)["train"] != task["train"]
    monkeypatch.setattr(next_sentence_task, "_BUFFER_FACTOR", 1)
    assert write(corpus_dir, tmp_path / "buffer") == task


@pytest.mark.parametrize(
    ("texts", "sizes", "message"),
    [
        (documents(), (500, 21, 20), r"the documents for train have \d+ pairs of sentences of 5 to 40 words; 500 from"),
        (documents(3), (2, 2, 2), "from two or more documents"),
        ([[sentence(0, 0), sentence(0, 1)]] * 60, (6, 6, 6), "nearly all of its pairs"),
    ],
    ids=["too few pairs", "a split of one document", "copies of one document"],
)
def test_a_corpus_that_is_too_small_is_refused_and_nothing_is_written(tmp_path, texts, sizes, message):
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=texts)
    with pytest.raises(InputError, match=message):
        write(corpus_dir, tmp_path / "glue", **dict(zip(SIZES, sizes, strict=True)))
    assert not (tmp_path / "glue").exists()


def test_the_job_writes_a_complete_run_once_but_a_dry_run_writes_nothing(corpus_dir, tmp_path, capsys):
    recipe = write_recipe(tmp_path, run_dir=str(tmp_path / "run"), corpus_dir=corpus_dir, **SIZES)
    assert build_next_sentence_task.main(["--recipe", recipe, "--dry-run"]) == 0
    assert "60 documents" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert build_next_sentence_task.main(["--recipe", recipe]) == 0
    assert "60 train, 21 dev, 20 test pairs of 480 usable ones" in capsys.readouterr().out
    outputs = read_manifest(str(tmp_path / "run"))["content"]["outputs"]
    rows = {f"glue/Follows/{split}.tsv": size for split, size in SIZES.items()}
    assert {name: entry["rows"] for name, entry in outputs.items()} == rows
    assert all((tmp_path / "run" / name).stat().st_size == entry["bytes"] for name, entry in outputs.items())
    assert build_next_sentence_task.main(["--recipe", recipe]) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_words": 9, "max_words": 8}, "min_words: 9 is above max_words"),
        ({"corpus_dir": "nowhere"}, "nowhere"),
        ({"train": 5000}, "pairs of sentences"),
    ],
)
def test_bad_input_of_the_job_is_reported_in_one_line(corpus_dir, tmp_path, capfd, changes, message):
    values = {"run_dir": str(tmp_path / "run"), "corpus_dir": corpus_dir, **SIZES, **changes}
    assert build_next_sentence_task.main(["--recipe", write_recipe(tmp_path, **values)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
