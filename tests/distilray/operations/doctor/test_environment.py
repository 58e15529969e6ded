import ipaddress
from pathlib import Path

import pytest

from distilray.operations.access import Token
from distilray.operations.doctor import environment
from distilray.operations.doctor.environment import (
    Listener,
    check_ports,
    check_proxies,
    check_threads,
    check_token_file,
    check_token_mode,
    listeners,
)

SECRET = "pa55w0rd"


@pytest.mark.parametrize(
    ("hub", "transformers", "is_offline"),
    [
        ("1", None, True),
        ("true", None, True),
        ("0", None, False),
        (None, None, False),
        ("1", "0", True),
        ("0", "1", False),
        ("", "1", True),
        ("no", "", False),
    ],
)
def test_the_first_variable_that_is_set_decides_about_the_hub_as_in_its_client(hub, transformers, is_offline):
    values = {"HF_HUB_OFFLINE": hub, "TRANSFORMERS_OFFLINE": transformers}
    assert environment.is_offline({name: value for name, value in values.items() if value is not None}) is is_offline


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "ok"),
        ({"http_proxy": f"http://me:{SECRET}@proxy:3128"}, "warn"),
        ({"HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128", "NO_PROXY": "localhost"}, "warn"),
        ({"HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128", "NO_PROXY": "localhost, 127.0.0.1"}, "ok"),
        ({"all_proxy": f"http://me:{SECRET}@proxy:3128", "no_proxy": "*"}, "ok"),
    ],
)
def test_requests_to_this_machine_bypass_the_proxy(environment, status):
    finding = check_proxies(environment)
    assert finding.status == status
    assert SECRET not in finding.message + finding.fix


def test_one_number_of_threads_for_all_workers_is_a_warning():
    assert check_threads({}, 8).status == "ok"
    assert check_threads({"OMP_NUM_THREADS": "1"}, 8).fix == "unset OMP_NUM_THREADS"


def test_the_threads_that_ray_sets_for_a_driver_are_ok():
    assert check_threads({"OMP_NUM_THREADS": "1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, 8).status == "ok"


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2049 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 070200C0:18EB 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000001000000:2710 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000100007F:18EB 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: B80D0120000000000000000001000000:7530 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def write(proc, tcp=TCP, tcp6=TCP6):
    (proc / "net").mkdir()
    (proc / "net/tcp").write_text(tcp)
    if tcp6 is not None:
        (proc / "net/tcp6").write_text(tcp6)
    return proc


def at(host: str, port: int) -> Listener:
    return Listener(ipaddress.ip_address(host), port)


def test_the_tables_of_the_kernel_list_the_listening_sockets(tmp_path):
    assert listeners(write(tmp_path)) == [
        at("::ffff:127.0.0.1", 6379),
        at("0.0.0.0", 8000),
        at("127.0.0.1", 8265),
        at("::1", 10000),
        at("2001:db8::1", 30000),
    ]


def test_a_machine_without_ipv6_has_one_table(tmp_path):
    assert [one.port for one in listeners(write(tmp_path, tcp6=None))] == [8000, 8265]


def test_no_table_is_an_error_and_not_a_machine_without_ports(tmp_path):
    with pytest.raises(OSError, match="net/tcp"):
        listeners(tmp_path)


@pytest.mark.parametrize(
    ("host", "is_open"),
    [
        *[(host, False) for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")],
        *[(host, True) for host in ("0.0.0.0", "::", "192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7")],
    ],
)
def test_only_sockets_on_loopback_are_closed(host, is_open):
    assert at(host, 8265).is_open is is_open


def test_an_open_dashboard_fails():
    finding = check_ports([at("0.0.0.0", 8265), at("0.0.0.0", 8000)])
    assert finding.status == "fail"
    assert "8265 (dashboard, runs any code)" in finding.message
    assert "--dashboard-host=127.0.0.1" in finding.fix


@pytest.mark.parametrize("port", [6379, 10001, 52365, 8000, 9101, 8404, 8500, 30000, 31000])
def test_other_open_ports_of_ray_and_serve_are_a_warning(port):
    finding = check_ports([at("::", port)])
    assert (finding.status, str(port) in finding.message, bool(finding.fix)) == ("warn", True, True)


@pytest.mark.parametrize("sockets", [[], [at("127.0.0.1", 8265), at("0.0.0.0", 22), at("0.0.0.0", 31001)]])
def test_closed_and_foreign_ports_are_fine(sockets):
    assert check_ports(sockets).status == "ok"


TOKEN = Token("5ec2e7" * 10, "RAY_AUTH_TOKEN")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a token file with correct permissions."""
    file = tmp_path / ".ray/auth_token"
    file.parent.mkdir()
    file.write_text("f11e" * 16 + "\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("mode", "token", "cluster", "status"),
    [
        (None, None, False, "ok"),
        (None, TOKEN, True, "warn"),
        ("token", TOKEN, True, "ok"),
        ("token", None, True, "fail"),
        ("token", None, False, "ok"),
        ("disabled", TOKEN, True, "fail"),
        ("disabled", None, False, "warn"),
        ("tokens", TOKEN, True, "fail"),
    ],
)
def test_clients_of_a_cluster_must_be_configured_to_send_a_token(mode, token, cluster, status):
    environment = {} if mode is None else {"RAY_AUTH_MODE": mode}
    finding = check_token_mode(environment, token, cluster=cluster)
    assert finding.status == status
    assert bool(finding.fix) == (status != "ok")
    assert TOKEN.value not in finding.message + finding.fix


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_fails(file, tmp_path, mode):
    file.chmod(mode)
    finding = check_token_file({}, tmp_path)
    assert (finding.status, finding.fix) == ("fail", f"chmod 600 {file}")
    assert f"{mode:04o}" in finding.message


def test_a_file_of_mode_600_and_no_file_are_fine(file, tmp_path):
    assert check_token_file({}, tmp_path).status == "ok"
    assert check_token_file({}, tmp_path / "nobody").status == "ok"


def test_a_token_path_without_a_file_fails_because_ray_would(tmp_path):
    finding = check_token_file({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
    assert (finding.status, "unset RAY_AUTH_TOKEN_PATH" in finding.fix) == ("fail", True)


def test_two_different_tokens_are_a_warning_that_shows_neither(file, tmp_path):
    finding = check_token_file({"RAY_AUTH_TOKEN": TOKEN.value}, tmp_path)
    assert (finding.status, finding.fix) == ("warn", "unset RAY_AUTH_TOKEN")
    assert TOKEN.value not in finding.message
    assert file.read_text().strip() not in finding.message
    assert check_token_file({"RAY_AUTH_TOKEN": file.read_text()}, tmp_path).status == "ok"
