"""Only one process at a time writes to a run folder; another one can replace a dead owner."""

import json
import os
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest

from distilray.errors import InputError
from distilray.runtime import run_owner
from distilray.runtime.run_owner import OWNER_FILE, RunOwner, check_visible

HOLD = """
import sys
from distilray.runtime.run_owner import RunOwner
with RunOwner(sys.argv[1]):
    print("owned", flush=True)
    sys.stdin.read()
"""


def record(folder, **changes):
    """Write the record of an owner in another container, and return it."""
    values = {"id": "x", "host": "node-7", "pid": 41, "since": "2026-01-01T10:00:00+00:00", "process": "1"}
    values |= {"scope": "another container", "renewed": time.time(), **changes}
    (folder / OWNER_FILE).write_text(json.dumps(values))
    return values


def read_record(folder):
    return json.loads((folder / OWNER_FILE).read_text())


def own(folder, **options):
    with RunOwner(str(folder), **options) as owner:
        owner.check()
        return read_record(folder)["pid"]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, root):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "owned\n"
        since = read_record(tmp_path)["since"]
        with pytest.raises(InputError, match=f"run_dir={tmp_path}: in use by PID {first.pid} on .*{since[:10]}"):
            own(tmp_path)
        assert first.poll() is None
        first.kill()
        first.wait()
    assert (tmp_path / OWNER_FILE).exists()
    assert own(tmp_path) == os.getpid()


def test_another_process_with_the_same_pid_is_not_the_owner(tmp_path):
    record(tmp_path, pid=os.getpid(), scope=run_owner._pid_namespace(), process="an earlier process")
    own(tmp_path, renewal_s=0.01)


def test_the_folder_is_released_after_the_block_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), RunOwner(str(tmp_path)):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_another_machine_that_renews_its_record_is_alive(tmp_path, monkeypatch, capsys):
    renewed = record(tmp_path)["renewed"] + 1
    sleep = Mock(side_effect=lambda seconds: record(tmp_path, renewed=renewed))
    monkeypatch.setattr(run_owner.time, "sleep", sleep)
    with pytest.raises(InputError, match="PID 41 on node-7"):
        own(tmp_path, expiry_s=30.0)
    sleep.assert_called_once()
    assert f"{tmp_path}: owned by PID 41 on node-7; waiting 30 s" in capsys.readouterr().err


@pytest.mark.parametrize(("silent_s", "expiry_s"), [(0.0, 0.05), (601.0, 3600.0)])
def test_an_owner_on_another_machine_that_is_silent_expires(tmp_path, silent_s, expiry_s):
    record(tmp_path, renewed=time.time() - silent_s)
    assert own(tmp_path, renewal_s=0.01, expiry_s=expiry_s) == os.getpid()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}', "not JSON"])
def test_a_record_that_no_owner_has_written_is_replaced(tmp_path, content):
    (tmp_path / OWNER_FILE).write_text(content)
    assert own(tmp_path, renewal_s=0.01) == os.getpid()


def test_the_record_is_renewed_while_the_folder_is_owned(tmp_path):
    with RunOwner(str(tmp_path), renewal_s=0.01):
        first, deadline = read_record(tmp_path)["renewed"], time.monotonic() + 10
        while read_record(tmp_path)["renewed"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_owner_that_was_replaced_notices_it_and_leaves_the_record(tmp_path):
    with RunOwner(str(tmp_path)) as owner:
        record(tmp_path)
        with pytest.raises(InputError, match="PID 41 on node-7"):
            owner.check()
        (tmp_path / OWNER_FILE).unlink()
        with pytest.raises(InputError, match=f"its {OWNER_FILE} was removed during the run"):
            owner.check()
        record(tmp_path)
    assert read_record(tmp_path)["host"] == "node-7"


def test_a_folder_in_an_object_store_has_one_owner_too(bucket):
    with RunOwner(f"{bucket}/run", renewal_s=0.01) as owner:
        owner.check()
        with pytest.raises(InputError, match=f"PID {os.getpid()}"), RunOwner(f"{bucket}/run"):
            pass


def test_a_worker_that_does_not_see_the_folder_names_its_node(tmp_path, monkeypatch):
    monkeypatch.setattr(run_owner.socket, "gethostname", lambda: "node-7")
    with RunOwner(str(tmp_path)):
        check_visible(str(tmp_path))
        with pytest.raises(InputError, match="node node-7 does not share this folder"):
            check_visible(str(tmp_path / "elsewhere"))
