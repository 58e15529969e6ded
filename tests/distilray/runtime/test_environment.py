import os

import pytest

from distilray.runtime.environment import environment


def fail_within() -> None:
    with environment({"THERE": "in", "MISSING": "in"}):
        assert (os.environ["THERE"], os.environ["MISSING"]) == ("in", "in")
        raise KeyError


def test_variables_are_set_in_the_block_and_as_before_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "before")
    monkeypatch.delenv("MISSING", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError):
        fail_within()
    assert dict(os.environ) == before
