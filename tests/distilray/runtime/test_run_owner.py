"""One process writes a run folder at a time; another one takes over from an owner that is gone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from distilray.errors import InputError
from distilray.runtime import run_owner
from distilray.runtime.run_owner import OWNER_FILE, RunOwner, check_visible

HOLD = """
import sys, time
from distilray.runtime.run_owner import RunOwner
with RunOwner(sys.argv[1]):
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    """A process of its own that owns the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "platform"}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.wait()


def record(folder, **changes):
    """Write the record of an owner in another container, and return it."""
    values = {"id": "x", "host": "node-7", "pid": 41, "since": "2026-01-01T10:00:00+00:00", "process": "1"}
    values |= {"scope": "another container", "renewed": time.time(), **changes}
    (folder / OWNER_FILE).write_text(json.dumps(values))
    return values


def test_a_second_process_is_refused_with_host_pid_and_start_of_the_first(tmp_path, other_process):
    since = json.loads((tmp_path / OWNER_FILE).read_text())["since"]
    with pytest.raises(InputError, match=f"PID {other_process.pid} on .*{since[:10]}"), RunOwner(str(tmp_path)):
        pass
    assert other_process.poll() is None


def test_a_killed_process_leaves_the_folder_to_the_next_one_at_once(tmp_path, other_process):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert (tmp_path / OWNER_FILE).exists()
    with RunOwner(str(tmp_path)):
        assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()


def test_another_process_with_the_same_pid_is_no_owner(tmp_path):
    record(tmp_path, pid=os.getpid(), scope=run_owner._pid_namespace(), process="an earlier process")
    with RunOwner(str(tmp_path)):
        pass


def test_the_folder_is_free_after_the_block_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), RunOwner(str(tmp_path)):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_owner_elsewhere_that_renews_its_record_is_alive(tmp_path):
    values = record(tmp_path)
    renewal = threading.Timer(0.3, record, [tmp_path], {**values, "renewed": values["renewed"] + 1})
    renewal.start()
    with pytest.raises(InputError, match="PID 41 on node-7"), RunOwner(str(tmp_path), expiry_s=30.0):
        pass
    renewal.join()


@pytest.mark.parametrize("silent_s", [0.0, 3600.0])
def test_an_owner_elsewhere_that_is_silent_expires(tmp_path, silent_s):
    record(tmp_path, renewed=time.time() - silent_s)
    with RunOwner(str(tmp_path), renewal_s=0.1, expiry_s=0.5) as owner:
        owner.check()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}', "not JSON"])
def test_a_record_that_no_owner_has_written_keeps_nobody_out(tmp_path, content):
    (tmp_path / OWNER_FILE).write_text(content)
    with RunOwner(str(tmp_path), renewal_s=0.05):
        pass


def test_the_record_is_renewed_while_the_folder_is_owned(tmp_path):
    def renewed():
        return json.loads((tmp_path / OWNER_FILE).read_text())["renewed"]

    with RunOwner(str(tmp_path), renewal_s=0.05):
        first, deadline = renewed(), time.monotonic() + 10
        while renewed() == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_owner_that_was_replaced_notices_it(tmp_path):
    with RunOwner(str(tmp_path)) as owner:
        owner.check()
        record(tmp_path)
        with pytest.raises(InputError, match="PID 41 on node-7"):
            owner.check()
    assert json.loads((tmp_path / OWNER_FILE).read_text())["host"] == "node-7"


def test_a_folder_in_an_object_store_has_one_owner_too(bucket):
    with RunOwner(f"{bucket}/run") as owner:
        owner.check()
        with pytest.raises(InputError, match=f"PID {os.getpid()}"), RunOwner(f"{bucket}/run"):
            pass


def test_a_worker_that_does_not_see_the_folder_names_its_node(tmp_path, monkeypatch):
    monkeypatch.setattr(run_owner.socket, "gethostname", lambda: "node-7")
    with RunOwner(str(tmp_path)):
        check_visible(str(tmp_path))
        with pytest.raises(InputError, match="node node-7 does not share this folder"):
            check_visible(str(tmp_path / "elsewhere"))
