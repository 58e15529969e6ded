import threading
import time

import pytest

from distilray.operations.doctor import command
from distilray.operations.doctor.check import Check, has_hanging_check, ok, run_checks


def test_a_process_whose_checks_have_ended_ends_in_order():
    list(run_checks([Check("a check", lambda: ok("there"))]))
    assert not has_hanging_check()
    with pytest.raises(SystemExit) as raised:
        command.exit_process(1)
    assert raised.value.code == 1


def test_a_process_does_not_wait_for_a_check_that_hangs(monkeypatch):
    never, codes = threading.Event(), []
    monkeypatch.setattr(command.os, "_exit", codes.append)
    list(run_checks([Check("hangs", never.wait)], timeout_s=0.01))
    with pytest.raises(SystemExit):  # where the real one does not come to
        command.exit_process(1)
    assert codes == [1]
    never.set()
    while has_hanging_check():
        time.sleep(0.01)
