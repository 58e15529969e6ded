"""The one exception family that means: the user's input is at fault, and here is the fix."""


class InputError(ValueError):
    """Bad input. The message is one line that names the file, key or row, and the fix; a job exits with code 2."""


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
