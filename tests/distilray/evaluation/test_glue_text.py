from dataclasses import replace
from pathlib import Path

import pytest

from distilray.config.evaluation import WriteGlueTextConfig
from distilray.errors import InputError
from distilray.evaluation import glue_text
from distilray.evaluation.glue_text import drop_contained_texts, plan_glue_text, write_glue_text
from distilray.finetuning.tasks import TASKS
from distilray.runtime.run_folder import RunFolder
from distilray.stages import STAGES
from tests.tiny.glue import small_rows, write_glue, write_lines

PHRASES = [
    "a film of",
    "a gorgeous , witty film of the year",
    "witty film of the",
    "the year ends here now",
    "a film of",
]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    for name in ("cola", "sst2", "rte"):
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], row_counts=counts))


def run(config):
    folder = RunFolder("write_glue_text", config, STAGES["write_glue_text"].job().inputs(config))
    plan_glue_text(config)
    folder.begin()
    return folder, write_glue_text(config, folder)


def test_a_text_inside_another_is_left_out_and_of_equal_ones_the_first_is_kept():
    assert drop_contained_texts(PHRASES) == [
        "a film of",
        "a gorgeous , witty film of the year",
        "the year ends here now",
    ]


def test_a_text_whose_words_only_begin_alike_is_kept():
    assert drop_contained_texts(["the film is a joy", "the film is a joyful thing"]) == [
        "the film is a joy",
        "the film is a joyful thing",
    ]


def test_texts_keep_their_order():
    texts = [f"sentence number {number} is {'very ' * (number % 3)}short" for number in range(20)]
    assert drop_contained_texts(texts) == texts


def test_every_text_is_kept_or_counted_with_the_reason(tmp_path):
    config = WriteGlueTextConfig(run_dir=str(tmp_path / "run"), glue_dir=str(tmp_path / "glue"), tasks=["sst2"])
    write_glue(tmp_path / "glue", ["sst2"])
    texts = [
        "too short",
        "a film that is good to see",
        "film that is good to",
        "two",
        "an odd one of the year 2001",
        "one",
    ]
    write_lines(tmp_path / "glue/SST-2/train.tsv", ["sentence\tlabel", *(f"{text} \t1" for text in texts)])
    folder, outcome = run(config)
    assert outcome.counts["sst2"] == {"texts": 6, "too_short": 3, "inside_another": 1, "kept": 2}
    lines = Path(folder.path("text/sst2.txt")).read_text().split("\n")
    assert lines == ["a film that is good to see", "an odd one of the year 2001", ""]


def test_neither_labels_nor_dev_and_test_rows_are_in_the_text(tmp_path):
    config = WriteGlueTextConfig(
        run_dir=str(tmp_path / "run"), glue_dir=write_glue(tmp_path / "glue", ["rte"]), tasks=["rte"], min_words=3
    )
    rows = [f"{row}\ttrain says this {row}\tand train says that {row}\tentailment" for row in range(6)]
    write_lines(tmp_path / "glue/RTE/train.tsv", ["index\tsentence1\tsentence2\tlabel", *rows])
    folder, _ = run(config)
    lines = Path(folder.path("text/rte.txt")).read_text().split()
    assert {"train", "says"} < set(lines)
    assert not {"entailment", "first", "second"} & set(lines)


def test_a_blank_line_ends_a_document_of_so_many_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(glue_text, "TEXTS_PER_DOCUMENT", 4)
    config = WriteGlueTextConfig(
        run_dir=str(tmp_path / "run"),
        glue_dir=write_glue(tmp_path / "glue", ["cola"]),
        tasks=["cola"],
    )
    rows = [f"gj04\t1\t\tlinguists wrote sentence number {row}" for row in range(6)]
    write_lines(tmp_path / "glue/CoLA/train.tsv", rows)
    folder, _ = run(config)
    documents = Path(folder.path("text/cola.txt")).read_text().split("\n\n")
    assert [document.count("number") for document in documents] == [4, 2]


def test_a_task_that_is_not_there_is_told_before_anything_is_written(tmp_path):
    config = WriteGlueTextConfig(
        run_dir=str(tmp_path / "run"), glue_dir=write_glue(tmp_path / "glue", ["cola"]), tasks=["cola", "rte"]
    )
    with pytest.raises(InputError, match="no folder for rte"):
        plan_glue_text(config)


def test_a_task_of_which_no_text_is_long_enough_is_told(tmp_path):
    glue_dir = write_glue(tmp_path / "glue", ["cola"])
    config = WriteGlueTextConfig(run_dir=str(tmp_path / "run"), glue_dir=glue_dir, tasks=["cola"])
    with pytest.raises(InputError, match="min_words: no text of cola has 5 words"):
        run(config)
    assert not (tmp_path / "run/manifest.json").exists()
