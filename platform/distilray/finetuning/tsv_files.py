"""Official TSV files of GLUE. Lines are split at tabs only, and quotes are part of the text."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distilray.errors import InputError
from distilray.finetuning.examples import AGAIN, Examples, check_row_count, check_scores, label_array, parse_label
from distilray.finetuning.tasks import FineTuneTask
from distilray.runtime import storage
from distilray.runtime.outputs import read_verified

# Microsoft's own distribution of MRPC contains the dev rows in the train file, and a list of their ids.
_MSR_TRAIN, _MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
_MSR_DEV = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
_MSR_IDS = ("#1 ID", "#2 ID")
_MAX_TORN_LINES = 100
_QUOTE = '"'
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode text"


def is_tsv_file(name: str) -> bool:
    """Return True if a file has the name of an official TSV file."""
    return name.endswith(".tsv") or name in (_MSR_TRAIN, _MSR_TEST)


def read_tsv_split(folder: str, task: FineTuneTask, split: str) -> tuple[Examples, int]:
    """Read `train`, a dev set or a test set of a task.

    Args:
        folder: path or URI of the folder of the task.
        split: split of the task other than `ax`.

    Returns:
        The rows in the order of the file, and the number of lines dropped as fragments of a torn row (only in QQP).

    Raises:
        InputError: a file is missing or is not the official one; the message names the line if a single one is wrong.
    """
    if task.name == "mrpc" and not storage.exists(storage.join(folder, "train.tsv")):
        return _read_msr(folder, task, split), 0
    uri = storage.join(folder, f"{split}.tsv")
    if split in task.test:
        return _read_test(uri, task, split), 0
    table = _open(uri, task.header)
    # A line break inside a question of QQP splits the row into two fragments.
    whole = [(number, line) for number, line in table.lines if line.count("\t") + 1 >= len(table.names)]
    torn = len(table.lines) - len(whole)
    if not task.has_torn_rows or torn > _MAX_TORN_LINES:
        torn = 0  # keep all fragments, so that the first one raises an error
    return _labeled_examples(replace(table, lines=whole) if torn else table, task, split, torn), torn


def read_tsv_ax(uri: str, task: FineTuneTask) -> Examples:
    """Read the diagnostic set AX, which is scored with MNLI.

    Raises:
        InputError: the file is not the official one.
    """
    return _read_test(uri, task, "ax")


@dataclass(frozen=True)
class _Table:
    """Lines of a TSV file.

    Attributes:
        names: column names.
        lines: line numbers, counted from 1, and lines, without the header.
        remark: see `Examples`.
    """

    uri: str
    names: Sequence[str]
    lines: Sequence[tuple[int, str]]
    remark: str = ""

    def columns(self, wanted: Sequence[str]) -> list[list[str]]:
        """Return the values of some columns.

        Raises:
            InputError: a column is missing from the header, or a row has the wrong number of columns.
        """
        if any(list(self.names).count(name) != 1 for name in wanted):
            names = ", ".join(self.names)[:200]
            raise InputError(f"{self.uri}: header {names!r}, expected {', '.join(wanted)}; {AGAIN}")
        indices = [self.names.index(name) for name in wanted]
        columns: list[list[str]] = [[] for _ in wanted]
        for number, line in self.lines:
            fields = line.split("\t")
            if len(fields) != len(self.names):
                raise InputError(f"{self.uri}:{number}: {len(fields)} columns instead of {len(self.names)}; {AGAIN}")
            for column, index in zip(columns, indices, strict=True):
                column.append(fields[index])
        return columns


def _open(uri: str, header: Sequence[str] = ()) -> _Table:
    """Open a file. It must have a header line, unless `header` names its columns."""
    raw_lines, remark = _lines(uri), ""
    if is_spreadsheet(raw_lines):
        raw_lines, remark = list(map(unquote, raw_lines)), "quotes of a spreadsheet removed"
    lines = list(enumerate(raw_lines, start=1))
    if header:
        return _Table(uri, header, lines, remark)
    return _Table(uri, lines[0][1].split("\t"), lines[1:], remark)


def _lines(uri: str) -> list[str]:
    if not storage.exists(uri) or storage.is_folder(uri):
        raise InputError(f"{uri}: no such file; put the official one there")
    data = read_verified(uri)
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        known = encoding.removesuffix("-sig").upper()
        raise InputError(f"{uri}:{line}: not {known} ({error.reason}); save it as UTF-8, or {AGAIN}") from None
    if "\0" in text.partition("\n")[0]:
        raise InputError(f"{uri}:1: a zero byte, as in UTF-16 without a byte order mark; save it as UTF-8, or {AGAIN}")
    if not text:
        raise InputError(f"{uri}: the file is empty; {AGAIN}")
    # Not str.splitlines, which also splits at characters that may be part of a text, such as U+0085.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _labeled_examples(table: _Table, task: FineTuneTask, split: str, torn: int = 0) -> Examples:
    *texts, label_words = table.columns([*task.columns, task.label])
    labels = []
    for (number, _), word in zip(table.lines, label_words, strict=True):
        try:
            labels.append(parse_label(task, word))
        except ValueError as error:
            raise InputError(f"{table.uri}:{number}: {error}; {AGAIN}") from None
    # Official row counts of QQP include fragments in some releases, and exclude them in others.
    check_row_count(table.uri, task, split, [len(label_words), len(label_words) + torn])
    check_scores(table.uri, task, labels)
    return _examples(texts, task, labels, table.remark)


def _read_test(uri: str, task: FineTuneTask, split: str) -> Examples:
    table = _open(uri)
    indices, *texts = table.columns([task.index, *task.columns])
    # A submission refers to rows by their position.
    for position, ((number, _), index) in enumerate(zip(table.lines, indices, strict=True)):
        if index != str(position):
            raise InputError(f"{uri}:{number}: {task.index} {index[:40]!r} instead of {position}; {AGAIN}")
    check_row_count(uri, task, split, [len(indices)])
    return _examples(texts, task, None, table.remark)


def _read_msr(folder: str, task: FineTuneTask, split: str) -> Examples:
    """Read MRPC from the files of Microsoft's own distribution, in which the test file has labels too."""
    name = _MSR_TEST if split in task.test else _MSR_TRAIN
    uri = storage.join(folder, name)
    if not storage.exists(uri):
        wanted = storage.join(folder, f"{split}.tsv")
        raise InputError(f"{wanted}: no such file, and no {name} next to it; put the official one there")
    table = _open(uri)
    if split in task.test:
        texts = table.columns(task.columns)
        check_row_count(uri, task, split, [len(table.lines)])
        return _examples(texts, task, None, table.remark)
    dev = _dev_ids(folder)
    first_ids, second_ids = table.columns(_MSR_IDS)
    is_dev = [ids in dev for ids in zip(first_ids, second_ids, strict=True)]
    lines = [line for line, held_out in zip(table.lines, is_dev, strict=True) if held_out == (split in task.dev)]
    return _labeled_examples(replace(table, lines=lines), task, split)


def _dev_ids(folder: str) -> set[tuple[str, ...]]:
    uris = [storage.join(folder, name) for name in _MSR_DEV]
    present = [uri for uri in uris if storage.exists(uri)]
    if not present:
        raise InputError(
            f"{uris[0]}: no such file; put the list of MRPC's dev rows there, or use train.tsv and dev.tsv"
        )
    return {tuple(line.split("\t")) for line in _lines(present[0])}


def _examples(texts: Sequence[list[str]], task: FineTuneTask, labels: Sequence[float] | None, remark: str) -> Examples:
    second = texts[1] if len(texts) > 1 else None
    return Examples(texts[0], second, None if labels is None else label_array(task, labels), remark)


def is_spreadsheet(lines: Sequence[str]) -> bool:
    """Return True if a file was saved by a spreadsheet. In official files quotes are always part of the text.

    A spreadsheet encloses every field that contains a quote in quotes, and doubles the quotes inside. A file with a few
    sentences of direct speech looks similar, so one more condition must hold: a field has doubled quotes inside, the
    quoted fields are exactly those with a comma, or all fields of a column are quoted.
    """
    with_quotes = [line for line in lines if _QUOTE in line]
    # For an official file, this stops at the first quotes.
    if not with_quotes or not all(
        _is_quoted(field) for line in with_quotes for field in _fields(line) if _QUOTE in field
    ):
        return False
    rows = list(map(_fields, lines))
    quoted = [field for row in rows for field in row if _QUOTE in field]
    if any(_QUOTE in field[1:-1] for field in quoted):
        return True
    if all("," in field for field in quoted):
        return not any("," in field for row in rows for field in row if _QUOTE not in field)
    columns = range(min(map(len, rows)))
    return len(rows) > 1 and any(all(_QUOTE in row[column] for row in rows) for column in columns)


def unquote(line: str) -> str:
    """Remove the quotes that a spreadsheet added to a line."""
    fields = [field[1:-1].replace(2 * _QUOTE, _QUOTE) if _is_quoted(field) else field for field in _fields(line)]
    return "\t".join(fields)


def _fields(line: str) -> list[str]:
    return line.split("\t")


def _is_quoted(field: str) -> bool:
    inner = field[1:-1].replace(2 * _QUOTE, "")
    return len(field) > 1 and field[0] == field[-1] == _QUOTE and _QUOTE not in inner
