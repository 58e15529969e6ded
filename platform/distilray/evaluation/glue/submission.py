"""The zip of test predictions that gluebenchmark.com takes: written, and checked line by line."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from distilray.config.glue import TaskName
from distilray.errors import InputError
from distilray.finetuning.tasks import STSB_RANGE, TASKS
from distilray.runtime import storage

_HEADER = "index\tprediction"
_SCORE = re.compile(r"[0-5](\.[0-9]{1,18})?", re.ASCII)
_FILL_SCORE = 2.5
# A whole submission has less than 7 MB of text, its longest line less than 32 bytes.
_MAX_BYTES = 64 << 20
_MAX_LINE = 200


@dataclass(frozen=True)
class SubmissionFile:
    """One file of a submission.

    Attributes:
        name: what it is of, as "MNLI-m".
        task: whose model predicts it.
        test: the test set of that task.
        rows: of the test set.
        labels: the words it may hold; empty for scores from 0 to 5.
    """

    name: str
    task: TaskName
    test: str
    rows: int
    labels: tuple[str, ...]

    @property
    def member(self) -> str:
        """Its name in the zip."""
        return f"{self.name}.tsv"


# The diagnostic set is the last one.
FILES = sorted(
    (
        SubmissionFile(name, task.name, test, task.rows[test][0], task.labels)
        for task in TASKS.values()
        for test, name in task.submission.items()
    ),
    key=lambda file: file.test == "ax",
)


def prediction_file(name: str, predictions: NDArray[Any]) -> bytes:
    """The content of one file.

    Args:
        name: as in `FILES`.
        predictions: shape (rows,): a class id for each row of the test set, or for STS-B a number, which is cut to
            0..5.

    Raises:
        ValueError: another number of rows, ids that are no classes, or numbers that are not finite.
    """
    file = next(file for file in FILES if file.name == name)
    if predictions.shape != (file.rows,):
        raise ValueError(f"{name}: predictions of shape {predictions.shape} for {file.rows:,} rows")
    words = _words(file, predictions) if file.labels else _scores(file, predictions)
    lines = [_HEADER, *(f"{index}\t{word}" for index, word in enumerate(words))]
    return ("\n".join(lines) + "\n").encode()


def find_absent_files(tests: Mapping[TaskName, Collection[str]], fill_missing: bool) -> list[SubmissionFile]:
    """The files of a submission that would have to be filled.

    Args:
        tests: names of the test sets that are there, by task.
        fill_missing: whether they may be.

    Raises:
        InputError: there are some, and they may not.
    """
    absent = [file for file in FILES if file.test not in tests.get(file.task, ())]
    if absent and not fill_missing:
        told = ", ".join(file.name for file in absent)
        raise InputError(f"submission: no test rows of {told}; add their files, or set submission.fill_missing=true")
    return absent


def write_submission(
    uri: str, predictions: Mapping[TaskName, Mapping[str, NDArray[Any]]], fill_missing: bool = False, note: str = ""
) -> list[str]:
    """Writes the zip; equal predictions give equal bytes.

    Args:
        uri: path or URI of the zip.
        predictions: by task and test set, as `prediction_file` takes them.
        fill_missing: whether a test set without predictions gets one answer for every row.
        note: for the comment of the zip, which no file of a submission has room for.

    Returns:
        The files that were filled, each with the answer, as "WNLI (0)".

    Raises:
        InputError: test sets are absent and are not to be filled.
        ValueError: predictions that are not of the test set, or of one that is in no submission.
    """
    found = {(task, test): values for task, tests in predictions.items() for test, values in tests.items()}
    unknown = sorted(set(found) - {(file.task, file.test) for file in FILES})
    if unknown:
        raise ValueError(f"{' '.join(unknown[0])} is in no submission")
    absent = find_absent_files(predictions, fill_missing)
    found.update({(file.task, file.test): _filling(file) for file in absent})
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.comment = note.encode()
        for file in FILES:
            member = zipfile.ZipInfo(file.member)  # its date is 1980, whatever the clock says
            member.compress_type, member.create_system, member.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(member, prediction_file(file.name, found[file.task, file.test]))
    storage.write_bytes(uri, data.getvalue())
    return [f"{file.name} ({file.labels[0] if file.labels else _FILL_SCORE})" for file in absent]


def validate_submission(path: str) -> None:
    """Checks that the leaderboard would take a zip; nothing is unpacked to disk.

    Args:
        path: of a file on this machine.

    Raises:
        InputError: it would not; the message names the member and the line of the first fault.
    """
    local = storage.local_path(path)
    if not local.is_file():
        raise InputError(f"{path}: no such file; give the submission's zip")
    if local.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: over {_MAX_BYTES >> 20} MiB, which no submission is; give the submission's zip")
    try:
        _check_archive(local)
    except _FaultError as fault:
        raise InputError(f"{path}: {fault}") from None
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{path}: not a whole zip ({error}); write it again") from None


class _FaultError(ValueError):
    """What is wrong in a zip, without its name."""


def _words(file: SubmissionFile, predictions: NDArray[Any]) -> list[str]:
    wrong = ~np.isin(predictions, range(len(file.labels)))
    if predictions.dtype.kind not in "iu" or wrong.any():
        raise ValueError(f"{file.name}: predictions that are no class ids from 0 to {len(file.labels) - 1}")
    return [file.labels[value] for value in predictions.tolist()]


def _scores(file: SubmissionFile, predictions: NDArray[Any]) -> list[str]:
    if not np.isfinite(predictions).all():
        raise ValueError(f"{file.name}: a prediction is not finite")
    # 0.0 is added since -0.0 would be written with its sign.
    return [f"{value:.3f}" for value in (np.clip(predictions, *STSB_RANGE) + 0.0).tolist()]


def _filling(file: SubmissionFile) -> NDArray[Any]:
    return np.zeros(file.rows, np.int64) if file.labels else np.full(file.rows, _FILL_SCORE)


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_names([member.filename for member in members])
        by_name = {member.filename: member for member in members}
        for file in FILES:
            member = by_name[file.member]
            if member.flag_bits & 1:
                raise _FaultError(f"{file.member} is encrypted; write it without a password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _FaultError(f"{file.member} is compressed in a rare way; write it with deflate")
            if member.file_size > _MAX_BYTES:
                raise _FaultError(
                    f"{file.member} has {member.file_size:,} bytes, more than its rows can; write it again"
                )
            with archive.open(member) as lines:
                _check_lines(file, lines)


def _check_names(names: Sequence[str]) -> None:
    wanted = [file.member for file in FILES]
    for place, name in enumerate(names):
        if "/" in name or "\\" in name:
            raise _FaultError(f"{name[:80]!r} is in or is a folder; zip the files without one")
        if name not in wanted:
            raise _FaultError(f"{name[:80]!r} does not belong there; a submission holds {', '.join(wanted)}")
        if name in names[:place]:
            raise _FaultError(f"{name} is there twice; keep one")
    absent = [name for name in wanted if name not in names]
    if absent:
        raise _FaultError(f"{', '.join(absent)} not there; every task needs its file, an unanswered one any answer")


def _check_lines(file: SubmissionFile, lines: IO[bytes]) -> None:
    """Refuses the first line that is not as it has to be; reads no more of a file than it may have."""
    for number in range(1, file.rows + 2):
        line = lines.readline(_MAX_LINE)
        if not line:
            told = f"the file ends after {number - 1:,} lines of {file.rows + 1:,}; predict every row"
            raise _FaultError(f"{file.member}, line {number}: {told}")
        # latin-1 takes every byte, and a byte that does not belong there is told by the message.
        fault = _line_fault(file, number, line.decode("latin-1").removesuffix("\n"))
        if fault:
            raise _FaultError(f"{file.member}, line {number}: {fault}")
    if lines.readline(_MAX_LINE):
        raise _FaultError(f"{file.member}, line {file.rows + 2}: more than {file.rows:,} rows; leave out what follows")


def _line_fault(file: SubmissionFile, number: int, line: str) -> str | None:
    if number == 1:
        return None if line == _HEADER else f"header {line[:40]!r} where {_HEADER!r} belongs"
    index, tab, word = line.partition("\t")
    if not tab:
        return f"{line[:40]!r} where an index, a tab and a prediction belong"
    if index != str(number - 2):
        return f"index {index[:40]!r} where {number - 2} belongs; rows go from 0 in the order of the test file"
    if file.labels:
        return None if word in file.labels else f"label {word[:40]!r} is none of {', '.join(file.labels)}"
    fits = _SCORE.fullmatch(word) and float(word) <= STSB_RANGE[1]
    return None if fits else f"score {word[:40]!r} is no number from 0 to 5, as 2.500"
