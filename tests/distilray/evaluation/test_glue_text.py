from dataclasses import replace

import pytest

from distilray.config.evaluation import WriteGlueTextConfig
from distilray.errors import InputError
from distilray.evaluation import glue_text
from distilray.evaluation.glue_text import drop_contained_texts, plan_glue_text, write_glue_text
from distilray.finetuning.tasks import TASKS
from distilray.runtime.run_folder import RunFolder
from tests.tiny.glue import FOLDERS, small_rows, write_glue, write_lines


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Run the stage on the train lines of a task; return its counts and its text."""

    def write(name, lines, **settings):
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], row_counts=counts))
        glue_dir = write_glue(tmp_path / "glue", [name])
        write_lines(tmp_path / "glue" / FOLDERS[name] / "train.tsv", lines)
        values = {"run_dir": str(tmp_path / "run"), "glue_dir": glue_dir, "tasks": [name], **settings}
        config = WriteGlueTextConfig.model_validate(values)
        plan_glue_text(config)
        folder = RunFolder("write_glue_text", config, {})
        folder.begin()
        outcome = write_glue_text(config, folder)
        assert list(outcome.outputs) == [f"text/{name}.txt"]
        return outcome.counts[name], (tmp_path / "run/text" / f"{name}.txt").read_text()

    return write


@pytest.mark.parametrize(
    ("texts", "dropped"),
    [
        (
            ["a film of", "a good , witty film of the year", "witty film of the", "the year ends here", "a film of"],
            [2, 4],
        ),
        (["the film is a joy", "the film is a joyful thing"], []),
        ([f"sentence number {number} is {'very ' * (number % 3)}short" for number in range(20)], []),
    ],
    ids=["contained or equal", "a word that only starts alike", "unrelated, in their order"],
)
def test_a_text_inside_another_is_dropped(texts, dropped):
    assert drop_contained_texts(texts) == [text for number, text in enumerate(texts) if number not in dropped]


def test_every_text_is_kept_or_counted_by_reason(write):
    kept = ["a film that is good to see", "an odd one of the year 2001"]
    texts = ["too short", kept[0], "film that is good to", "two", kept[1], "one"]
    counts, text = write("sst2", ["sentence\tlabel", *(f"{text} \t1" for text in texts)])
    assert counts == {"texts": 6, "too_short": 3, "inside_another": 1, "kept": 2}
    assert text.splitlines() == kept


def test_only_train_texts_are_written_without_their_labels(write):
    rows = [f"{row}\ttrain says this {row}\tand train says that {row}\tentailment" for row in range(6)]
    _, text = write("rte", ["index\tsentence1\tsentence2\tlabel", *rows], min_words=3)
    expected = [line for row in range(6) for line in (f"train says this {row}", f"and train says that {row}")]
    assert text.splitlines() == expected


def test_a_blank_line_ends_a_document(write, monkeypatch):
    monkeypatch.setattr(glue_text, "TEXTS_PER_DOCUMENT", 4)
    _, text = write("cola", [f"gj04\t1\t\tlinguists wrote sentence number {row}" for row in range(6)])
    assert [document.count("number") for document in text.split("\n\n")] == [4, 2]


def test_a_missing_task_is_refused_by_the_plan(tmp_path):
    glue_dir = write_glue(tmp_path / "glue", ["cola"])
    config = WriteGlueTextConfig(run_dir=str(tmp_path / "run"), glue_dir=glue_dir, tasks=["cola", "rte"])
    with pytest.raises(InputError, match="no folder for rte"):
        plan_glue_text(config)


def test_a_task_without_a_text_that_is_long_enough_is_refused(write):
    with pytest.raises(InputError, match="min_words: no text of cola has 5 words"):
        write("cola", ["gj04\t1\t\tonly four words here"] * 6)
