"""The exceptions that mean: the input is at fault, not the program."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input. The message is one line that names the file, key or row, and the fix; a job exits with code 2."""


class DataQualityError(Exception):
    """Too much of the input is unusable. A job prints the message and the places, and exits with code 1.

    Attributes:
        places: what is wrong where, one line each; the first of them when there are many.
    """

    def __init__(self, message: str, places: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.places = list(places)


def find_input_error(error: BaseException) -> InputError | None:
    """The `InputError` behind an exception, also when Ray has wrapped it on its way from a worker, else None."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, InputError):
            return current
        wrapped = [getattr(current, "cause", None), *getattr(current, "worker_failures", {}).values()]
        queue += [current.__cause__, current.__context__]
        queue += [part for part in wrapped if isinstance(part, BaseException)]
    return None
