import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """The tiny models are faster without threads, most of all on a machine that does something else too."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: None)
        yield
