import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from distilray.errors import DataQualityError, InputError, MissingFileError, find_input_error, reading, writing


class Wrapping(RuntimeError):
    """An error that holds others in attributes, like those of Ray's tasks and worker groups."""

    def __init__(self, **held: object) -> None:
        super().__init__("wrapped")
        vars(self).update(held)


def caused_by(cause: BaseException) -> BaseException:
    error = RuntimeError("outer")
    error.__cause__ = cause
    return error


def test_an_input_error_is_found_in_every_kind_of_wrapper() -> None:
    wanted = InputError("x")
    wrapped = [
        wanted,
        caused_by(wanted),
        Wrapping(cause=wanted),
        Wrapping(worker_failures={0: RuntimeError("rank 0"), 1: caused_by(wanted)}),
        caused_by(Wrapping(cause=caused_by(wanted))),
    ]
    assert [find_input_error(error) for error in wrapped] == [wanted] * len(wrapped)


def test_other_errors_have_no_input_error() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    others = [first, OSError(errno.ECHILD, "no child"), Wrapping(cause=ValueError("x"), worker_failures={0: "text"})]
    assert [find_input_error(error) for error in others] == [None] * 3


class OfBothClasses(InputError):
    """Imitation of the exception that Ray raises for one in a task: of its class, with the traceback as the message."""

    def __init__(self, cause: InputError) -> None:
        super().__init__("Traceback ...")
        self.cause = cause


def test_the_message_of_a_remote_function_is_that_of_its_cause() -> None:
    assert str(find_input_error(OfBothClasses(InputError("x")))) == "x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_cannot_be_written_is_an_input_error_that_names_the_file(number: int) -> None:
    found = find_input_error(caused_by(OSError(number, "no room", "/tmp/file")))
    assert "/tmp/file: no room" in str(found)


@pytest.mark.parametrize(
    ("translate", "error", "message"),
    [
        (reading, FileNotFoundError(errno.ENOENT, "gone"), "no such file or folder"),
        (reading, PermissionError(errno.EACCES, "denied"), f"permission denied; give user {os.getuid()}"),
        (reading, OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
        (reading, OSError("an answer of the store"), "cannot be read (an answer of the store)"),
        (writing, FileNotFoundError(errno.ENOENT, "gone"), "removed by another process"),
        (writing, OSError(errno.EROFS, "Read-only"), "cannot be written (Read-only); give this user access"),
        (writing, PermissionError(errno.EACCES, "denied"), "cannot be written (denied); give this user access"),
        (writing, OSError(errno.EPERM, "denied"), "cannot be written (denied); give this user access"),
        (writing, OSError(errno.ENOSPC, "No space left"), "cannot be written (No space left); free space"),
    ],
)
def test_a_file_that_cannot_be_read_or_written_is_an_input_error(
    translate: Callable[[str], AbstractContextManager[None]], error: OSError, message: str
) -> None:
    with pytest.raises(InputError) as caught, translate("/data/x"):
        raise error
    assert str(caught.value).startswith(f"/data/x: {message}")
    assert isinstance(caught.value, FileNotFoundError) == isinstance(error, FileNotFoundError)


@pytest.mark.parametrize("translate", [reading, writing])
def test_an_input_error_is_not_translated(translate: Callable[[str], AbstractContextManager[None]]) -> None:
    with pytest.raises(MissingFileError, match=r"^own message$"), translate("x"):
        raise MissingFileError("own message")


def test_a_notebook_shows_the_message_and_the_details_without_a_traceback() -> None:
    # IPython calls this method of an exception instead of formatting its traceback.
    assert MissingFileError("a: no such file")._render_traceback_() == ["MissingFileError: a: no such file"]
    lines = DataQualityError("too many bad rows", ["a:1: no_mask"])._render_traceback_()
    assert lines == ["DataQualityError: too many bad rows", "a:1: no_mask"]
