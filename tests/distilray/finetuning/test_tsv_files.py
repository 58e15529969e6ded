"""Lines, quotes and errors of the official files; the content of each task is tested in test_files.py."""

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distilray.errors import InputError
from distilray.finetuning.tasks import TASKS
from distilray.finetuning.tsv_files import is_spreadsheet, is_tsv_file, read_tsv_ax, read_tsv_split, unquote
from tests.tiny.glue import OFFICIAL_ROWS, raw_lines, small_rows, write_lines, write_msr, write_raw

ANY = {name: replace(task, row_counts={}) for name, task in TASKS.items()}
SST2 = "sentence\tlabel\n"


def read(folder, name, split, content, *, task=None):
    """Write the file of a split, and return its rows and the number of torn rows."""
    data = "\n".join(content) if isinstance(content, list) else content
    (folder / f"{split}.tsv").write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_tsv_split(str(folder), task or ANY[name], split)


def test_quotes_and_characters_that_look_like_line_ends_are_text(tmp_path):
    texts = ['"one', 'two" and "three', "'", "a\x0bb\x0cc\x1cd\x1ee", "next\u0085line\u2028para\u2029", '""', " x "]
    assert read(tmp_path, "sst2", "train", ["sentence\tlabel", *(f"{text}\t1" for text in texts)])[0].first == texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_every_line_end_and_encoding_of_a_spreadsheet_is_read(tmp_path, encoding, end, last):
    text = end.join(["sentence\tlabel", "one\t0", "two é\t1"]) + end * last
    rows, _ = read(tmp_path, "sst2", "dev", text.encode(encoding))
    assert (rows.first, rows.labels.tolist(), rows.remark) == (["one", "two é"], [0, 1], "")


def test_a_byte_order_mark_is_not_part_of_a_file_without_header(tmp_path):
    rows, _ = read(tmp_path, "cola", "dev", "\ufeffgj04\t1\t\tone\n")
    assert (rows.first, rows.labels.tolist()) == (["one"], [1])
    assert read(tmp_path, "cola", "dev", '\ufeff"a"\t1\t\tone, "two"\n')[0].first == ['one, "two"']


def test_columns_are_found_by_name(tmp_path):
    rows, _ = read(tmp_path, "rte", "dev", "label\tsentence2\textra\tsentence1\nentailment\tb\tx\ta\n")
    assert (rows.first, rows.second) == (["a"], ["b"])


@pytest.mark.parametrize(
    ("name", "split", "content", "message"),
    [
        ("rte", "dev", "index\tsentence\tlabel\n", r": header 'index, sentence, label', expected .*sentence1, sent"),
        ("rte", "dev", "sentence1\tsentence1\tsentence2\tlabel\n", ": header"),
        ("rte", "test", "sentence1\tsentence2\na\tb\n", ": header .*, expected index, sentence1, sentence2"),
        ("sst2", "dev", f"{SST2}a\t1\nb\n", ":3: 1 columns instead of 2"),
        ("sst2", "dev", f"{SST2}a\t1\n\nb\t1\n", ":3: 1 columns instead of 2"),
        ("sst2", "dev", f"{SST2}a\t1\nb\t1\t1\n", ":3: 3 columns instead of 2"),
        ("cola", "dev", "gj\t1\t\ta\ngj\t1\ta\n", ":2: 3 columns instead of 4"),
        ("cola", "train", "source\tlabel\tmark\tsentence\ngj\t1\t\ta\n", ":1: label 'label' is none of 0, 1;"),
        ("sst2", "dev", f"{SST2}a\t1\nb\tgood\n", ":3: label 'good' is none of 0, 1;"),
        ("sst2", "dev", f"{SST2}a\t-1\n", ":2: label '-1' is none of 0, 1;"),
        ("rte", "dev", "sentence1\tsentence2\tlabel\na\tb\tneutral\n", ":2: label 'neutral' is none of entail"),
        ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\t5.1\n", r":2: score '5\.1' is not a number from 0 to 5"),
        ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\t-0.1\n", r":2: score '-0\.1' is not a number"),
        ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\tnan\n", ":2: score 'nan' is not a number"),
        ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\thigh\n", ":2: score 'high' is not a number"),
        ("stsb", "dev", "sentence1\tsentence2\tscore\na\tb\t0.2\na\tb\t1\n", ": no score above 1.* by 5"),
        ("rte", "test", "index\tsentence1\tsentence2\n0\ta\tb\n2\ta\tb\n", ":3: index '2' instead of 1"),
        ("sst2", "dev", "", ": the file is empty"),
        ("sst2", "dev", "\ufeff", ": the file is empty"),
        ("sst2", "dev", SST2, ": no rows"),
        ("sst2", "dev", f"{SST2}a\t1\n".encode() + b"\xff\t1\n", ":3: not UTF-8 .*save it as UTF-8"),
        ("sst2", "dev", f"{SST2}a\t1\n".encode("utf-16-le"), ":1: a zero byte, as in UTF-16"),
        ("sst2", "dev", f"{SST2}a\t1\n".encode("utf-16")[:-1], r":\d+: not UTF-16"),
        ("qqp", "train", [*raw_lines("qqp", "train", 2), *101 * ["torn"]], ":4: 1 columns instead of 6"),
        ("qqp", "train", [*raw_lines("qqp", "train", 2), "torn", "0\t1\t2\ta\tb\tx"], ":5: label 'x'"),
        ("qqp", "test", [*raw_lines("qqp", "test", 2), "torn"], ":4: 1 columns instead of 3"),
        ("qqp", "dev", [*raw_lines("qqp", "dev", 2), f"{'a' * 99}\t" * 6 + "0"], ":4: 7 columns instead of 6"),
    ],
)
def test_an_invalid_file_is_refused_by_name_and_line(tmp_path, name, split, content, message):
    with pytest.raises(InputError, match=rf"^[^\n]*{split}\.tsv{message}[^\n]*$"):
        read(tmp_path, name, split, content)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_missing_file_is_refused(tmp_path, split):
    with pytest.raises(InputError, match=rf"{split}\.tsv: no such file; put"):
        read_tsv_split(str(tmp_path), ANY["rte"], split)


@pytest.mark.parametrize("torn_rows", [4, 100])
def test_fragments_of_torn_rows_of_qqp_are_dropped_and_counted(tmp_path, torn_rows):
    lines, torn = raw_lines("qqp", "train", 5), ["0\t1\t2\ta", " and more\tb\t1", "rest", ""] * (torn_rows // 4)
    content = [*lines[:3], *torn, *lines[3:]]
    rows, count = read(tmp_path, "qqp", "train", content)
    assert (rows.first, count) == ([f"first {row}" for row in range(5)], torn_rows)
    for official in (5, 5 + torn_rows):  # some releases count the fragments
        read(tmp_path, "qqp", "train", content, task=replace(TASKS["qqp"], row_counts={"train": (official,)}))
    with pytest.raises(InputError, match="5 rows, but QQP has 7;"):
        read(tmp_path, "qqp", "train", content, task=replace(TASKS["qqp"], row_counts={"train": (7,)}))


@pytest.mark.parametrize("ids", ["dev_ids.tsv", "mrpc_dev_ids.tsv"])
def test_mrpc_is_also_read_from_the_files_of_microsoft(tmp_path, ids):
    write_msr(tmp_path, OFFICIAL_ROWS["mrpc"])
    (tmp_path / "MRPC" / "dev_ids.tsv").rename(tmp_path / "MRPC" / ids)
    splits = {split: read_tsv_split(str(tmp_path / "MRPC"), TASKS["mrpc"], split)[0] for split in OFFICIAL_ROWS["mrpc"]}
    assert {split: len(rows) for split, rows in splits.items()} == OFFICIAL_ROWS["mrpc"]
    assert not set(splits["train"].first) & set(splits["dev"].first)
    rows = [int(text.removeprefix("first ")) for text in splits["dev"].first]
    assert rows == sorted(rows)
    assert splits["dev"].labels.tolist() == [row % 2 for row in rows]
    assert splits["test"].labels is None


def test_incomplete_files_of_mrpc_are_refused(tmp_path):
    folder = tmp_path / "MRPC"
    with pytest.raises(InputError, match=r"train\.tsv: no such file, and no msr_paraphrase_train\.txt next to it"):
        read_tsv_split(str(folder), ANY["mrpc"], "train")
    write_msr(tmp_path, small_rows("mrpc"))
    (folder / "dev_ids.tsv").unlink()
    with pytest.raises(InputError, match=r"dev_ids\.tsv: no such file; put the list of MRPC's dev rows there"):
        read_tsv_split(str(folder), ANY["mrpc"], "train")
    write_raw(tmp_path, "mrpc", {"train": 3})  # the split files take precedence over those of Microsoft
    assert len(read_tsv_split(str(folder), ANY["mrpc"], "train")[0]) == 3
    with pytest.raises(InputError, match=r"dev\.tsv: no such file"):
        read_tsv_split(str(folder), ANY["mrpc"], "dev")


def test_the_rows_of_the_diagnostic_set_are_counted(tmp_path):
    file = tmp_path / "diagnostic.tsv"
    write_lines(file, raw_lines("mnli", "ax", 1_104))
    rows = read_tsv_ax(str(file), TASKS["mnli"])
    assert (len(rows), rows.labels) == (1_104, None)
    write_lines(file, raw_lines("mnli", "ax", 1_103))
    with pytest.raises(InputError, match="1,103 rows, but MNLI has 1,104"):
        read_tsv_ax(str(file), TASKS["mnli"])


def test_official_files_are_recognized_by_name():
    names = ["train.tsv", "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "README.md", "0.parquet", "notes.txt"]
    assert [name for name in names if is_tsv_file(name)] == names[:3]


TEXT = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["0", "1"])), min_size=1, max_size=5))
def test_every_text_without_a_tab_or_a_line_end_is_preserved(tmp_path_factory, rows):
    lines = ["index\tsentence1\tsentence2\tlabel", *("0\t" + "\t".join(row) for row in rows)]
    assume(not is_spreadsheet(lines))
    read_rows, _ = read(tmp_path_factory.mktemp("wnli"), "wnli", "train", lines)
    assert list(zip(read_rows.first, read_rows.second, map(str, read_rows.labels.tolist()), strict=True)) == rows


QUOTED = [
    ["index", "sentence1", "sentence2", "label"],
    ["0", 'He said "no".', "No, he said.", "entailment"],
    ["1", '"Ulysses" is long', "A plain text", "not_entailment"],
]
PLAIN = [QUOTED[0], ["1", "Ulysses is long", "A plain text", "entailment"], ["2", "Yes, it is", "It is", "entailment"]]


def lines_of(rows):
    return ["\t".join(row) for row in rows]


def saved(rows, quoting):
    """Return the lines of a file saved by a spreadsheet."""
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n", quoting=quoting).writerows(rows)
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (saved(QUOTED, csv.QUOTE_MINIMAL), QUOTED),
        (saved(QUOTED, csv.QUOTE_ALL), QUOTED),
        (saved(PLAIN, csv.QUOTE_ALL), PLAIN),
        (lines_of([[f'"{field}"' if "," in field else field for field in row] for row in PLAIN]), PLAIN),
    ],
    ids=["minimal", "all", "all, no quotes in the text", "commas"],
)
def test_the_quotes_of_a_spreadsheet_are_removed(tmp_path, lines, rows):
    assert is_spreadsheet(lines)
    assert [unquote(line) for line in lines] == lines_of(rows)
    read_rows, _ = read(tmp_path, "rte", "dev", lines)
    assert (read_rows.first, read_rows.remark) == ([row[1] for row in rows[1:]], "quotes of a spreadsheet removed")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        QUOTED,
        PLAIN,
        [["0", '"All of it is direct speech."'], ["1", "None, of, it"]],
        [["0", '"All, of it"'], ["1", "None, of, it"]],
        [["0", '"a ""doubled"" quote"'], ["1", 'a plain " quote']],
        [["0", '"'], ["1", '""']],
        [["0", 'odd """']],
    ],
)
def test_quotes_in_texts_are_not_those_of_a_spreadsheet(rows):
    assert not is_spreadsheet(lines_of(rows))
