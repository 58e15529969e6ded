"""The exceptions that mean: the input is at fault, not the program."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class InputError(ValueError):
    """Bad input. The message is one line that names the file, key or row, and the fix; a job exits with code 2."""


class MissingFileError(InputError, FileNotFoundError):
    """A file that is not there, or no longer."""


class DataQualityError(Exception):
    """Too much of the input is unusable. A job prints the message and the places, and exits with code 1.

    Attributes:
        places: what is wrong where, one line each; the first of them when there are many.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise `InputError` in place of an `OSError` of the file that the block reads.

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
        raise InputError(f"{name}: permission denied; give user {os.getuid()} access to all of this path") from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{name}: cannot be read ({reason}); check the disk or store, then run again") from None


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Raise `InputError` in place of an `OSError` of the file that the block writes or removes.

    Args:
        name: path or URI of the file, for the message.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{name}: removed by another process; run again, alone in this folder") from None
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        fix = "give this user access" if refused else "free space"
        raise InputError(
            f"{name}: cannot be written ({error.strerror or error}); {fix} or choose another folder"
        ) from None


def find_input_error(error: BaseException) -> InputError | None:
    """The `InputError` behind an exception, also when Ray has wrapped it on its way from a worker, else None.

    A full or read-only disk counts as one, whichever library met it.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        cause = getattr(current, "cause", None)
        # What Ray raises for a task's exception is of its class too, and its message is the traceback.
        if isinstance(current, InputError) and not isinstance(cause, InputError):
            return current
        if isinstance(current, OSError) and current.errno in _DISK_ERRORS:
            fix = "free space there, or set TMPDIR where it is a temporary file"
            return InputError(f"{current.filename or 'a temporary file'}: {current.strerror}; {fix}")
        wrapped = [cause, *getattr(current, "worker_failures", {}).values()]
        queue += [current.__cause__, current.__context__]
        queue += [part for part in wrapped if isinstance(part, BaseException)]
    return None
