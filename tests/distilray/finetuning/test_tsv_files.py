from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.errors import InputError
from distilray.finetuning.tasks import TASKS
from distilray.finetuning.tsv_files import is_spreadsheet, is_tsv_file, read_tsv_ax, read_tsv_split
from tests.tiny.glue import FOLDERS, OFFICIAL_ROWS, labels_of, raw_lines, small_rows, write_lines, write_msr, write_raw

# Most tests here accept any number of rows.
ANY = {name: replace(task, row_counts={}) for name, task in TASKS.items()}


def put(folder: Path, name: str, text: str | bytes) -> str:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_split_of_every_task_is_read(tmp_path: Path, name: TaskName) -> None:
    rows, task = small_rows(name), ANY[name]
    write_raw(tmp_path, name, rows)
    for split in ("train", *task.dev, *(test for test in task.test if test != "ax")):
        found, torn = read_tsv_split(str(tmp_path / FOLDERS[name]), task, split)
        assert found.first == [f"first {row}" for row in range(rows[split])]
        assert found.second == (None if name in ("cola", "sst2") else [f"second {row}" for row in range(rows[split])])
        assert torn == 0
        if split in task.test:
            assert found.labels is None
            continue
        words = [labels_of(name)[row % len(labels_of(name))] for row in range(rows[split])]
        expected = [float(word) if task.is_regression else task.labels.index(word) for word in words]
        assert found.labels is not None
        assert found.labels.tolist() == expected
        assert found.labels.dtype == (np.float32 if task.is_regression else np.int64)


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "rte", "wnli"])
def test_official_numbers_of_rows_are_taken_and_one_less_or_more_is_not(tmp_path: Path, name: TaskName) -> None:
    task, rows = TASKS[name], OFFICIAL_ROWS[name]
    folder = tmp_path / FOLDERS[name]
    for split in rows:
        for wrong in (-1, 0, 1):
            write_raw(tmp_path, name, {split: rows[split] + wrong})
            if not wrong:
                assert len(read_tsv_split(str(folder), task, split)[0]) == rows[split]
                continue
            message = rf"{split}\.tsv: {rows[split] + wrong:,} rows, but {task.title} has {rows[split]:,}; "
            with pytest.raises(InputError, match=message):
                read_tsv_split(str(folder), task, split)


def test_cola_that_was_read_with_a_header_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_raw(tmp_path, "cola", {"train": 8_550})
    with pytest.raises(InputError, match=r"train\.tsv: 8,550 rows, but CoLA has 8,551; .*header"):
        read_tsv_split(str(tmp_path / "CoLA"), TASKS["cola"], "train")


def test_cola_that_was_saved_with_a_header_is_refused_at_line_1(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.tsv", ["source\tlabel\tmark\tsentence", *raw_lines("cola", "train", 8_551)])
    with pytest.raises(InputError, match=r"train\.tsv:1: label 'label' is none of 0, 1;"):
        read_tsv_split(str(tmp_path), TASKS["cola"], "train")


@pytest.mark.parametrize(("split", "rows"), [("train", 108_436), ("dev", 5_732)])
def test_the_first_version_of_qnli_is_named(tmp_path: Path, split: str, rows: int) -> None:
    write_raw(tmp_path, "qnli", {split: rows})
    with pytest.raises(InputError, match=rf"{split}\.tsv: {rows:,} rows, .* version 1 of QNLI"):
        read_tsv_split(str(tmp_path / "QNLI"), TASKS["qnli"], split)


def test_quotes_and_signs_that_look_like_line_ends_are_text(tmp_path: Path) -> None:
    texts = ['"one', 'two" and "three', "'", "a\x0bb\x0cc\x1cd\x1ee", "next\u0085line\u2028para\u2029", '""', " x "]
    lines = ["sentence\tlabel", *(f"{text}\t1" for text in texts)]
    found, _ = read_tsv_split(put(tmp_path, "train.tsv", "\n".join(lines)), ANY["sst2"], "train")
    assert found.first == texts


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_every_line_end_and_a_byte_order_mark_are_taken(tmp_path: Path, mark: bytes, end: str, last: bool) -> None:
    text = end.join(["sentence\tlabel", "one\t0", "two é\t1"]) + end * last
    found, _ = read_tsv_split(put(tmp_path, "dev.tsv", mark + text.encode()), ANY["sst2"], "dev")
    assert found.first == ["one", "two é"]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]


def test_a_byte_order_mark_does_not_get_into_the_first_text_of_cola(tmp_path: Path) -> None:
    put(tmp_path, "dev.tsv", "\ufeffgj04\t1\t\tone\n".encode())
    assert read_tsv_split(str(tmp_path), ANY["cola"], "dev")[0].first == ["one"]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    put(tmp_path, "dev.tsv", "label\tsentence2\textra\tsentence1\nentailment\tb\tx\ta\n")
    found, _ = read_tsv_split(str(tmp_path), ANY["rte"], "dev")
    assert (found.first, found.second) == (["a"], ["b"])


WRONG = [
    (
        "rte",
        "dev",
        "index\tsentence\tlabel\n",
        r"dev\.tsv: header 'index, sentence, label', expected .*sentence1, sentence2",
    ),
    ("rte", "dev", "sentence1\tsentence1\tsentence2\tlabel\n", r"dev\.tsv: header"),
    ("rte", "test", "sentence1\tsentence2\na\tb\n", r"test\.tsv: header .*, expected index, sentence1, sentence2"),
    ("sst2", "dev", "sentence\tlabel\na\t1\nb\n", r"dev\.tsv:3: 1 columns instead of 2"),
    ("sst2", "dev", "sentence\tlabel\na\t1\n\nb\t1\n", r"dev\.tsv:3: 1 columns instead of 2"),
    ("sst2", "dev", "sentence\tlabel\na\t1\nb\t1\t1\n", r"dev\.tsv:3: 3 columns instead of 2"),
    ("cola", "dev", "gj\t1\t\ta\ngj\t1\ta\n", r"dev\.tsv:2: 3 columns instead of 4"),
    ("sst2", "dev", "sentence\tlabel\na\t1\nb\tgood\n", r"dev\.tsv:3: label 'good' is none of 0, 1;"),
    ("sst2", "dev", "sentence\tlabel\na\t-1\n", r"dev\.tsv:2: label '-1' is none of 0, 1;"),
    (
        "rte",
        "dev",
        "sentence1\tsentence2\tlabel\na\tb\tneutral\n",
        r":2: label 'neutral' is none of entailment, not_ent",
    ),
    (
        "stsb",
        "dev",
        "sentence1\tsentence2\tscore\na\tb\t5.1\n",
        r"dev\.tsv:2: score '5\.1' is not a number from 0 to 5",
    ),
    ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\t-0.1\n", r"dev\.tsv:2: score '-0\.1' is not a number"),
    ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\tnan\n", r"dev\.tsv:2: score 'nan' is not a number"),
    ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\thigh\n", r"dev\.tsv:2: score 'high' is not a number"),
    ("rte", "test", "index\tsentence1\tsentence2\n0\ta\tb\n2\ta\tb\n", r"test\.tsv:3: index '2' instead of 1"),
    ("sst2", "dev", "", r"dev\.tsv: the file is empty"),
    ("sst2", "dev", "\ufeff", r"dev\.tsv: the file is empty"),
    ("sst2", "dev", "sentence\tlabel\n", r"dev\.tsv: no rows"),
    ("sst2", "dev", b"sentence\tlabel\na\t1\n\xff\t1\n", r"dev\.tsv:3: not UTF-8 .*save it as UTF-8"),
    ("sst2", "dev", "sentence\tlabel\na\t1\n".encode("utf-16-le"), r"dev\.tsv:1: a zero byte, as in UTF-16"),
    ("sst2", "dev", "sentence\tlabel\na\t1\n".encode("utf-16")[:-1], r"dev\.tsv:\d+: not UTF-16"),
    ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\t0.2\na\tb\t1\n", r"dev\.tsv: no score above 1.* by 5"),
]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_encodings_and_line_ends_of_spreadsheets_are_read(tmp_path: Path, encoding: str) -> None:
    text = "sentence\tlabel\r\ncaf\u00e9\t1\r\n"
    found, _ = read_tsv_split(put(tmp_path, "dev.tsv", text.encode(encoding)), ANY["sst2"], "dev")
    assert (found.first, found.remark) == (["caf\u00e9"], "")


def test_the_quotes_of_a_spreadsheet_are_removed_with_a_remark(tmp_path: Path) -> None:
    put(tmp_path, "dev.tsv", 'sentence\tlabel\n"a ""b"""\t1\nc\t0\n')
    found, _ = read_tsv_split(str(tmp_path), ANY["sst2"], "dev")
    assert (found.first, found.remark) == (['a "b"', "c"], "quotes of a spreadsheet removed")


@pytest.mark.parametrize(("name", "split", "text", "message"), WRONG)
def test_a_wrong_file_is_refused_by_name_and_line(
    tmp_path: Path, name: TaskName, split: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        read_tsv_split(put(tmp_path, f"{split}.tsv", text), ANY[name], split)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_absent_file_is_named(tmp_path: Path, split: str) -> None:
    with pytest.raises(InputError, match=rf"{split}\.tsv: no such file; put"):
        read_tsv_split(str(tmp_path), ANY["rte"], split)


TORN = ["0\t1\t2\ta", " and more\tb\t1", "rest", ""]


def test_pieces_of_torn_rows_of_qqp_are_dropped_and_counted(tmp_path: Path) -> None:
    lines = raw_lines("qqp", "train", 5)
    write_lines(tmp_path / "train.tsv", [*lines[:3], *TORN, *lines[3:]])
    found, torn = read_tsv_split(str(tmp_path), ANY["qqp"], "train")
    assert found.first == [f"first {row}" for row in range(5)]
    assert torn == 4


@pytest.mark.parametrize("known", [5, 9])
def test_a_release_of_qqp_is_known_by_whole_rows_or_by_lines(tmp_path: Path, known: int) -> None:
    write_lines(tmp_path / "train.tsv", [*raw_lines("qqp", "train", 5), *TORN])
    task = replace(TASKS["qqp"], row_counts={"train": (known,)})
    assert len(read_tsv_split(str(tmp_path), task, "train")[0]) == 5
    with pytest.raises(InputError, match="5 rows, but QQP has 7;"):
        read_tsv_split(str(tmp_path), replace(task, row_counts={"train": (7,)}), "train")


def test_a_label_after_a_torn_row_is_reported_by_its_line_in_the_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.tsv", [*raw_lines("qqp", "train", 2), *TORN, "0\t1\t2\ta\tb\tx"])
    with pytest.raises(InputError, match=r"train\.tsv:8: label 'x'"):
        read_tsv_split(str(tmp_path), ANY["qqp"], "train")


def test_a_file_of_torn_rows_is_no_release_of_qqp(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.tsv", [*raw_lines("qqp", "train", 2), *(101 * ["torn"])])
    with pytest.raises(InputError, match=r"train\.tsv:4: 1 columns instead of 6"):
        read_tsv_split(str(tmp_path), ANY["qqp"], "train")


def test_no_row_of_a_test_set_is_dropped(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.tsv", [*raw_lines("qqp", "test", 2), "torn"])
    with pytest.raises(InputError, match=r"test\.tsv:4: 1 columns instead of 3"):
        read_tsv_split(str(tmp_path), ANY["qqp"], "test")


def test_both_layouts_of_mrpc_give_the_same_sizes(tmp_path: Path) -> None:
    write_msr(tmp_path, OFFICIAL_ROWS["mrpc"])
    folder, task = str(tmp_path / "MRPC"), TASKS["mrpc"]
    found = {split: read_tsv_split(folder, task, split)[0] for split in ("train", "dev", "test")}
    assert {split: len(examples) for split, examples in found.items()} == OFFICIAL_ROWS["mrpc"]
    assert not set(found["train"].first) & set(found["dev"].first)
    assert found["train"].labels is not None
    assert found["dev"].labels is not None
    rows = [int(text.removeprefix("first ")) for text in found["dev"].first]
    assert rows == sorted(rows)
    assert found["dev"].labels.tolist() == [row % 2 for row in rows]
    assert found["test"].labels is None


def test_the_split_files_of_mrpc_win_over_the_package_they_were_made_of(tmp_path: Path) -> None:
    write_msr(tmp_path, small_rows("mrpc"))
    write_raw(tmp_path, "mrpc", {"train": 3})
    assert len(read_tsv_split(str(tmp_path / "MRPC"), ANY["mrpc"], "train")[0]) == 3
    with pytest.raises(InputError, match=r"dev\.tsv: no such file"):
        read_tsv_split(str(tmp_path / "MRPC"), ANY["mrpc"], "dev")


def test_mrpc_without_the_list_of_dev_rows_is_refused(tmp_path: Path) -> None:
    write_msr(tmp_path, small_rows("mrpc"))
    (tmp_path / "MRPC" / "dev_ids.tsv").unlink()
    with pytest.raises(InputError, match=r"dev_ids\.tsv: no such file; put the list of MRPC's dev rows there"):
        read_tsv_split(str(tmp_path / "MRPC"), ANY["mrpc"], "train")


def test_mrpc_without_any_train_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.tsv: no such file, and no msr_paraphrase_train\.txt next to it"):
        read_tsv_split(str(tmp_path), ANY["mrpc"], "train")


def test_the_train_file_of_mrpc_with_the_dev_rows_is_named(tmp_path: Path) -> None:
    write_raw(tmp_path, "mrpc", {"train": 4_076})
    with pytest.raises(InputError, match=r"4,076 rows, but MRPC has 3,668; they include the dev rows"):
        read_tsv_split(str(tmp_path / "MRPC"), TASKS["mrpc"], "train")


def test_the_diagnostic_set_is_read_and_its_rows_are_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "diagnostic.tsv", raw_lines("mnli", "ax", 1_104))
    found = read_tsv_ax(str(tmp_path / "diagnostic.tsv"), TASKS["mnli"])
    assert (len(found), found.labels) == (1_104, None)
    write_lines(tmp_path / "diagnostic.tsv", raw_lines("mnli", "ax", 1_103))
    with pytest.raises(InputError, match="1,103 rows, but MNLI has 1,104"):
        read_tsv_ax(str(tmp_path / "diagnostic.tsv"), TASKS["mnli"])


def test_files_of_the_official_layout_are_known_by_name() -> None:
    names = ["train.tsv", "msr_paraphrase_train.txt", "README.md", "train-00000-of-00001.parquet", "notes.txt"]
    assert [name for name in names if is_tsv_file(name)] == names[:2]


TEXT = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["0", "1"])), min_size=1, max_size=5))
def test_every_text_without_a_tab_or_a_line_end_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    lines = ["index\tsentence1\tsentence2\tlabel", *(f"0\t{first}\t{second}\t{word}" for first, second, word in rows)]
    assume(not is_spreadsheet(lines))
    folder = tmp_path_factory.mktemp("wnli")
    write_lines(folder / "train.tsv", lines)
    found, _ = read_tsv_split(str(folder), ANY["wnli"], "train")
    assert found.labels is not None
    assert list(zip(found.first, found.second or [], map(str, found.labels.tolist()), strict=True)) == rows
