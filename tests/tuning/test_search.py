import pytest

from tests.tuning.tiny_search import config
from tuning.search import concurrent_trials


@pytest.mark.parametrize(
    ("address", "max_minutes", "expected"),
    [(None, None, 3), ("10.0.0.1:6379", None, None), ("10.0.0.1:6379", 5, 3)],
    ids=["a local cluster cannot grow", "a cluster may grow", "with a time limit no task waits for the others"],
)
def test_trials_at_a_time(monkeypatch, tmp_path, address, max_minutes, expected):
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert concurrent_trials(config(tmp_path, max_minutes=max_minutes), share=3) == expected
