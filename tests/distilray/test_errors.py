import errno

import pytest

from distilray.errors import InputError, find_input_error, reading, writing


class Wrapping(RuntimeError):
    """An error that holds others in attributes, like those of Ray's tasks and worker groups."""

    def __init__(self, **held: object) -> None:
        super().__init__("wrapped")
        vars(self).update(held)


def caused_by(cause: BaseException) -> BaseException:
    error = RuntimeError("outer")
    error.__cause__ = cause
    return error


def test_an_input_error_is_found_behind_every_kind_of_wrapping() -> None:
    wanted = InputError("x")
    wrapped = [
        wanted,
        caused_by(wanted),
        Wrapping(cause=wanted),
        Wrapping(worker_failures={0: RuntimeError("rank 0"), 1: caused_by(wanted)}),
        caused_by(Wrapping(cause=caused_by(wanted))),
    ]
    assert [find_input_error(error) for error in wrapped] == [wanted] * len(wrapped)


def test_an_error_without_an_input_error_behind_it_gives_none() -> None:
    assert find_input_error(Wrapping(cause=ValueError("x"), worker_failures={0: "text"})) is None


def test_errors_that_cause_each_other_end_the_search() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert find_input_error(first) is None


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


def test_another_error_of_the_system_is_none() -> None:
    assert find_input_error(OSError(errno.ECHILD, "no child")) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), "no such file or folder"),
        (PermissionError(errno.EACCES, "denied"), "permission denied"),
        (OSError(errno.EIO, "Input/output error"), r"cannot be read \(Input/output error\)"),
        (OSError("an answer of the store"), r"cannot be read \(an answer of the store\)"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_input_error(error: OSError, reason: str) -> None:
    with pytest.raises(InputError, match=f"^/data/x: {reason}"), reading("/data/x"):
        raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), "removed by another process"),
        (OSError(errno.EROFS, "Read-only file system"), r"cannot be written \(Read-only file system\); give this user"),
        (OSError(errno.ENOSPC, "No space left"), r"cannot be written \(No space left\); free space"),
    ],
)
def test_a_file_that_cannot_be_written_is_an_input_error(error: OSError, reason: str) -> None:
    with pytest.raises(InputError, match=f"^/data/x: {reason}"), writing("/data/x"):
        raise error


def test_a_missing_file_is_also_what_python_calls_it() -> None:
    with pytest.raises(FileNotFoundError), reading("x"):
        raise FileNotFoundError
