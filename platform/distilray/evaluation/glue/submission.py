"""Writer and validator for the zip of test predictions that gluebenchmark.com accepts."""

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
# A valid submission contains less than 7 MB of text, and its lines are shorter than 32 bytes.
_MAX_BYTES = 64 << 20
_MAX_LINE = 200


@dataclass(frozen=True)
class SubmissionFile:
    """One file of a submission.

    Attributes:
        name: name without suffix, such as "MNLI-m".
        task: the task whose model makes the predictions.
        test: name of the task's test set.
        rows: number of rows of the test set.
        labels: allowed predictions; empty for scores from 0 to 5.
    """

    name: str
    task: TaskName
    test: str
    rows: int
    labels: tuple[str, ...]

    @property
    def member(self) -> str:
        """File name in the zip."""
        return f"{self.name}.tsv"


# The diagnostic set comes last.
FILES = sorted(
    (
        SubmissionFile(name, task.name, test, task.row_counts[test][0], task.labels)
        for task in TASKS.values()
        for test, name in task.submission.items()
    ),
    key=lambda file: file.test == "ax",
)


def prediction_file(name: str, predictions: NDArray[Any]) -> bytes:
    """Return the content of one file of a submission.

    Args:
        name: name of a file in `FILES`.
        predictions: (rows,) class ids, or for STS-B scores, which are clipped to 0..5.

    Raises:
        ValueError: the number of rows is wrong, an id is not a class, or a score is not finite.
    """
    file = next(file for file in FILES if file.name == name)
    if predictions.shape != (file.rows,):
        raise ValueError(f"{name}: predictions of shape {predictions.shape} for {file.rows:,} rows")
    cells = _label_cells(file, predictions) if file.labels else _score_cells(file, predictions)
    lines = [_HEADER, *(f"{index}\t{cell}" for index, cell in enumerate(cells))]
    return ("\n".join(lines) + "\n").encode()


def find_missing_files(tests: Mapping[TaskName, Collection[str]], fill_missing: bool) -> list[SubmissionFile]:
    """Return the files of a submission without a test set.

    Args:
        tests: names of the available test sets by task.
        fill_missing: allow such files, to be filled with a constant answer.

    Raises:
        InputError: test sets are missing and `fill_missing` is false.
    """
    missing = [file for file in FILES if file.test not in tests.get(file.task, ())]
    if missing and not fill_missing:
        names = ", ".join(file.name for file in missing)
        raise InputError(f"submission: no test rows of {names}; add their files, or set submission.fill_missing=true")
    return missing


def write_submission(
    uri: str, predictions: Mapping[TaskName, Mapping[str, NDArray[Any]]], fill_missing: bool = False, note: str = ""
) -> list[str]:
    """Write the zip; the same predictions produce the same bytes.

    Args:
        uri: path or URI of the zip.
        predictions: arguments of `prediction_file` by task and test set.
        fill_missing: answer all rows of a missing test set with the same constant.
        note: comment of the zip, since the files of a submission have no comments.

    Returns:
        The filled files, each with its constant answer, such as "WNLI (0)".

    Raises:
        InputError: test sets are missing and `fill_missing` is false.
        ValueError: predictions do not fit their test set, or the test set does not belong to a submission.
    """
    by_test = {(task, test): values for task, tests in predictions.items() for test, values in tests.items()}
    unknown = sorted(set(by_test) - {(file.task, file.test) for file in FILES})
    if unknown:
        raise ValueError(f"{' '.join(unknown[0])} does not belong to a submission")
    missing = find_missing_files(predictions, fill_missing)
    by_test.update({(file.task, file.test): _constant_answer(file) for file in missing})
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.comment = note.encode()
        for file in FILES:
            member = zipfile.ZipInfo(file.member)  # the default date of 1980 makes the bytes reproducible
            member.compress_type, member.create_system, member.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(member, prediction_file(file.name, by_test[file.task, file.test]))
    storage.write_bytes(uri, data.getvalue())
    return [f"{file.name} ({file.labels[0] if file.labels else _FILL_SCORE})" for file in missing]


def validate_submission(path: str) -> None:
    """Check that the leaderboard would accept a zip, without unpacking it to disk.

    Args:
        path: a file on this machine.

    Raises:
        InputError: the zip is invalid; the message names the file and line of the first error.
    """
    local = storage.local_path(path)
    if not local.is_file():
        raise InputError(f"{path}: no such file; pass the zip of a submission")
    if local.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; pass the zip of a submission")
    try:
        _check_archive(local)
    except _InvalidSubmissionError as problem:
        raise InputError(f"{path}: {problem}") from None
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{path}: not a complete zip file ({error}); write it again") from None


class _InvalidSubmissionError(ValueError):
    """Invalid content of a zip; the message does not name the zip."""


def _label_cells(file: SubmissionFile, predictions: NDArray[Any]) -> list[str]:
    wrong = ~np.isin(predictions, range(len(file.labels)))
    if predictions.dtype.kind not in "iu" or wrong.any():
        raise ValueError(f"{file.name}: predictions must be class ids from 0 to {len(file.labels) - 1}")
    return [file.labels[value] for value in predictions.tolist()]


def _score_cells(file: SubmissionFile, predictions: NDArray[Any]) -> list[str]:
    if not np.isfinite(predictions).all():
        raise ValueError(f"{file.name}: a prediction is not finite")
    # Adding 0.0 turns -0.0, which would be written with its sign, into 0.0.
    return [f"{value:.3f}" for value in (np.clip(predictions, *STSB_RANGE) + 0.0).tolist()]


def _constant_answer(file: SubmissionFile) -> NDArray[Any]:
    return np.zeros(file.rows, np.int64) if file.labels else np.full(file.rows, _FILL_SCORE)


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_names([member.filename for member in members])
        by_name = {member.filename: member for member in members}
        for file in FILES:
            member = by_name[file.member]
            if member.flag_bits & 1:
                raise _InvalidSubmissionError(f"{file.member} is encrypted; write it without a password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _InvalidSubmissionError(f"{file.member} has an unsupported compression; write it with deflate")
            if member.file_size > _MAX_BYTES:
                raise _InvalidSubmissionError(
                    f"{file.member} has {member.file_size:,} bytes, too many for its rows; write it again"
                )
            with archive.open(member) as lines:
                _check_lines(file, lines)


def _check_names(names: Sequence[str]) -> None:
    expected = [file.member for file in FILES]
    for number, name in enumerate(names):
        if "/" in name or "\\" in name:
            raise _InvalidSubmissionError(f"{name[:80]!r} is a folder or in one; zip the files without a folder")
        if name not in expected:
            message = f"{name[:80]!r} does not belong to a submission, which contains {', '.join(expected)}"
            raise _InvalidSubmissionError(message)
        if name in names[:number]:
            raise _InvalidSubmissionError(f"{name} occurs twice; keep one")
    missing = [name for name in expected if name not in names]
    if missing:
        message = f"{', '.join(missing)} missing; every task needs a file, even if its answers are arbitrary"
        raise _InvalidSubmissionError(message)


def _check_lines(file: SubmissionFile, lines: IO[bytes]) -> None:
    """Raise for the first invalid line; read no more lines than a valid file has, because the zip may be a bomb."""
    for number in range(1, file.rows + 2):
        line = lines.readline(_MAX_LINE)
        if not line:
            problem = f"the file ends after {number - 1:,} lines of {file.rows + 1:,}; predict every row"
            raise _InvalidSubmissionError(f"{file.member}, line {number}: {problem}")
        # latin-1 decodes any byte, so an invalid one appears in the message.
        invalid = _line_problem(file, number, line.decode("latin-1").removesuffix("\n"))
        if invalid:
            raise _InvalidSubmissionError(f"{file.member}, line {number}: {invalid}")
    if lines.readline(_MAX_LINE):
        message = f"{file.member}, line {file.rows + 2}: more than {file.rows:,} rows; remove the rest"
        raise _InvalidSubmissionError(message)


def _line_problem(file: SubmissionFile, number: int, line: str) -> str | None:
    if number == 1:
        return None if line == _HEADER else f"header {line[:40]!r}, expected {_HEADER!r}"
    index, tab, cell = line.partition("\t")
    if not tab:
        return f"{line[:40]!r}, expected an index, a tab and a prediction"
    if index != str(number - 2):
        return f"index {index[:40]!r}, expected {number - 2}; rows are numbered from 0 in the order of the test file"
    if file.labels:
        return None if cell in file.labels else f"label {cell[:40]!r} is none of {', '.join(file.labels)}"
    is_score = _SCORE.fullmatch(cell) and float(cell) <= STSB_RANGE[1]
    return None if is_score else f"score {cell[:40]!r} is not a number from 0 to 5, such as 2.500"
