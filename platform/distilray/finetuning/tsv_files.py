"""The official TSV files of GLUE: split at tabs and at nothing else, since a lone quote is text there."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distilray.errors import InputError
from distilray.finetuning.examples import Examples, check_rows, check_scores, label_array, read_label
from distilray.finetuning.tasks import FineTuneTask
from distilray.runtime import storage
from distilray.runtime.outputs import read_verified

_AGAIN = "get the official file again"
# MRPC as Microsoft gives it: the dev rows are in the train file, and a list tells which they are.
_MSR_TRAIN, _MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
_MSR_DEV = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
_MSR_IDS = ("#1 ID", "#2 ID")
_MOST_TORN = 100
_QUOTE = '"'
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Excel saves "Unicode text"


def is_raw_file(name: str) -> bool:
    """Return True if a file of this name belongs to the official layout."""
    return name.endswith(".tsv") or name in (_MSR_TRAIN, _MSR_TEST)


def read_tsv_split(folder: str, task: FineTuneTask, split: str) -> tuple[Examples, int]:
    """Reads `train`, a dev set or a test set of a task.

    Args:
        folder: path or URI of the task's folder.
        task: the task.
        split: one of the task's, but not `ax`.

    Returns:
        The rows in the order of the file, and how many lines were dropped as pieces of a torn row; only QQP has such.

    Raises:
        InputError: a file is absent or not the official one; the message names the line when one is wrong.
    """
    if task.name == "mrpc" and not storage.exists(storage.join(folder, "train.tsv")):
        return _read_msr(folder, task, split), 0
    uri = storage.join(folder, f"{split}.tsv")
    if split in task.test:
        return _read_test(uri, task, split), 0
    table = _open(uri, task.header)
    # A row of QQP with a line end in a question is two lines that mean nothing.
    whole = [(number, line) for number, line in table.lines if line.count("\t") + 1 >= len(table.names)]
    torn = len(table.lines) - len(whole)
    if not task.torn_rows or torn > _MOST_TORN:
        torn = 0  # the first of them is refused
    return _labelled(replace(table, lines=whole) if torn else table, task, split, torn), torn


def read_tsv_ax(uri: str, task: FineTuneTask) -> Examples:
    """Reads the diagnostic set, which is scored with MNLI, from its file.

    Raises:
        InputError: it is not the official file.
    """
    return _read_test(uri, task, "ax")


@dataclass(frozen=True)
class _Table:
    """A file.

    Attributes:
        uri: where it is.
        names: of the columns.
        lines: without the header, each with its number in the file, which counts from 1.
        remark: as in `Examples`.
    """

    uri: str
    names: Sequence[str]
    lines: Sequence[tuple[int, str]]
    remark: str = ""

    def columns(self, wanted: Sequence[str]) -> list[list[str]]:
        """The values of columns, by name.

        Raises:
            InputError: a column is not in the header, or a row is too short or too long.
        """
        if any(list(self.names).count(name) != 1 for name in wanted):
            names = ", ".join(self.names)[:200]
            raise InputError(f"{self.uri}: header {names!r} where one with {', '.join(wanted)} belongs; {_AGAIN}")
        places = [self.names.index(name) for name in wanted]
        columns: list[list[str]] = [[] for _ in wanted]
        for number, line in self.lines:
            fields = line.split("\t")
            if len(fields) != len(self.names):
                raise InputError(f"{self.uri}:{number}: {len(fields)} columns instead of {len(self.names)}; {_AGAIN}")
            for column, place in zip(columns, places, strict=True):
                column.append(fields[place])
        return columns


def _open(uri: str, header: Sequence[str] = ()) -> _Table:
    """A file that has a header line, unless `header` tells its columns."""
    plain, remark = _lines(uri), ""
    if is_spreadsheet(plain):
        plain, remark = list(map(unquoted, plain)), "quotes of a spreadsheet removed"
    lines = list(enumerate(plain, start=1))
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
        raise InputError(f"{uri}:{line}: not {known} ({error.reason}); save it as UTF-8, or {_AGAIN}") from None
    if "\0" in text.partition("\n")[0]:
        raise InputError(f"{uri}:1: a zero byte, as UTF-16 without a mark has; save it as UTF-8, or {_AGAIN}")
    if not text:
        raise InputError(f"{uri}: the file is empty; {_AGAIN}")
    # Not str.splitlines: it also splits at signs that may stand in a text, as U+0085.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _labelled(table: _Table, task: FineTuneTask, split: str, torn: int = 0) -> Examples:
    *texts, words = table.columns([*task.columns, task.label])
    labels = []
    for (number, _), word in zip(table.lines, words, strict=True):
        try:
            labels.append(read_label(task, word))
        except ValueError as error:
            raise InputError(f"{table.uri}:{number}: {error}; {_AGAIN}") from None
    # Releases of QQP are known by their whole rows or by their lines.
    check_rows(table.uri, task, split, [len(words), len(words) + torn])
    check_scores(table.uri, task, labels)
    return _examples(texts, task, labels, table.remark)


def _read_test(uri: str, task: FineTuneTask, split: str) -> Examples:
    table = _open(uri)
    indices, *texts = table.columns([task.index, *task.columns])
    # The number of a prediction in a submission is the place of its row.
    for place, ((number, _), index) in enumerate(zip(table.lines, indices, strict=True)):
        if index != str(place):
            raise InputError(f"{uri}:{number}: {task.index} {index[:40]!r} where {place} belongs; {_AGAIN}")
    check_rows(uri, task, split, [len(indices)])
    return _examples(texts, task, None, table.remark)


def _read_msr(folder: str, task: FineTuneTask, split: str) -> Examples:
    """MRPC from the files of Microsoft's package; either file has the labels of its rows."""
    name = _MSR_TEST if split in task.test else _MSR_TRAIN
    uri = storage.join(folder, name)
    if not storage.exists(uri):
        wanted = storage.join(folder, f"{split}.tsv")
        raise InputError(f"{wanted}: no such file, nor {name} beside it; put the official one there")
    table = _open(uri)
    if split in task.test:
        texts = table.columns(task.columns)
        check_rows(uri, task, split, [len(table.lines)])
        return _examples(texts, task, None, table.remark)
    dev = _dev_ids(folder)
    first_ids, second_ids = table.columns(_MSR_IDS)
    is_dev = [ids in dev for ids in zip(first_ids, second_ids, strict=True)]
    lines = [line for line, held_out in zip(table.lines, is_dev, strict=True) if held_out == (split in task.dev)]
    return _labelled(replace(table, lines=lines), task, split)


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
    """Return whether a spreadsheet has saved a file. In an official file a quote is text, also at the ends of a field.

    A spreadsheet puts every field with a quote in quotes and doubles its own quotes. A file with a few sentences of
    direct speech looks alike, so one of these must hold too: some field has doubled quotes inside; exactly the fields
    with a comma are in quotes; or all fields of a column are.
    """
    with_quotes = [line for line in lines if _QUOTE in line]
    # Of an official file the first lines are enough.
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


def unquoted(line: str) -> str:
    """Return a line of a spreadsheet without its quotes."""
    fields = [field[1:-1].replace(2 * _QUOTE, _QUOTE) if _is_quoted(field) else field for field in _fields(line)]
    return "\t".join(fields)


def _fields(line: str) -> list[str]:
    return line.split("\t")


def _is_quoted(field: str) -> bool:
    inner = field[1:-1].replace(2 * _QUOTE, "")
    return len(field) > 1 and field[0] == field[-1] == _QUOTE and _QUOTE not in inner
