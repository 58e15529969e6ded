from distilray.errors import InputError, find_input_error


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
