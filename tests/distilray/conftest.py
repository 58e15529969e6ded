import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Use one thread, with which the tiny models are faster, most of all on a busy machine."""
    import torch

    torch.set_num_threads(1)
