import os

import pytest

from distilray.runtime.environment import inside_cluster, temporary_environment


def fail_within() -> None:
    with temporary_environment({"THERE": "in", "MISSING": "in"}):
        assert (os.environ["THERE"], os.environ["MISSING"]) == ("in", "in")
        raise KeyError


def test_variables_are_set_in_the_block_and_as_before_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "before")
    monkeypatch.delenv("MISSING", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError):
        fail_within()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("address", "expected"), [(None, False), ("", False), ("local", False), ("10.0.0.1:6379", True), ("auto", True)]
)
def test_a_process_is_inside_a_cluster_if_its_environment_has_an_address(
    monkeypatch: pytest.MonkeyPatch, address: str | None, expected: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert inside_cluster() is expected
