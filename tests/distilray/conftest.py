import sys

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Use one thread, with which the tiny models are faster, most of all on a busy machine."""
    if torch := sys.modules.get("torch"):  # not imported by tests that do not need it
        torch.set_num_threads(1)
