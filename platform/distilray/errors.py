"""Exceptions for bad input, as opposed to bugs, and context managers that translate `OSError` into them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class InputError(ValueError):
    """Bad input. The message is one line that names the file, key or row, and the fix; jobs exit with code 2."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows: the message without the traceback."""
        return [f"{type(self).__name__}: {self}"]


class MissingFileError(InputError, FileNotFoundError):
    """A file does not exist, or was removed."""


class DataQualityError(Exception):
    """Too much of the input is unusable. Jobs print the message and the details, and exit with code 1.

    Attributes:
        details: one line per problem; only the first ones if there are many.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows."""
        return [f"{type(self).__name__}: {self}", *self.details]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Translate an `OSError` in the block into an `InputError` about reading a file.

    Args:
        name: path or URI of the file, for the message.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{name}: no such file or folder; restore it, or correct the path") from None
    except PermissionError:
        raise InputError(
            f"{name}: permission denied; give user {os.getuid()} access to every part of the path"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{name}: cannot be read ({reason}); check the disk or store, then run again") from None


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Translate an `OSError` in the block into an `InputError` about writing or removing a file.

    Args:
        name: path or URI of the file, for the message.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise MissingFileError(
            f"{name}: removed by another process; make sure that no other process uses the folder, and run again"
        ) from None
    except OSError as error:
        is_denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        fix = "give this user access" if is_denied else "free space"
        raise InputError(
            f"{name}: cannot be written ({error.strerror or error}); {fix} or choose another folder"
        ) from None


def find_input_error(error: BaseException) -> InputError | None:
    """Return the `InputError` that caused an exception, possibly on a Ray worker, or None.

    Errors of a full or read-only disk are converted to an `InputError`, whichever library raised them.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        cause = getattr(current, "cause", None)
        # Ray's wrapper of a task's exception is also an instance of its class, with the traceback as the message.
        if isinstance(current, InputError) and not isinstance(cause, InputError):
            return current
        if isinstance(current, OSError) and current.errno in _DISK_ERRORS:
            fix = "free space there, or set TMPDIR if it is a temporary file"
            return InputError(f"{current.filename or 'a temporary file'}: {current.strerror}; {fix}")
        wrapped = [cause, *getattr(current, "worker_failures", {}).values()]
        queue += [current.__cause__, current.__context__]
        queue += [inner for inner in wrapped if isinstance(inner, BaseException)]
    return None
