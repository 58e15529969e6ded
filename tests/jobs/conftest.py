from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because tiny models are slower with more."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: None)
        yield


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small inputs of all shipped recipes."""
    from tests.jobs.recipe_inputs import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def error_line(capfd: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """Return a function that checks for exit code 2 and returns the only line that was printed, on stderr."""

    def error_line(code: int) -> str:
        output = capfd.readouterr()
        assert (code, output.out) == (2, ""), output
        (line,) = output.err.splitlines()
        return line

    return error_line
