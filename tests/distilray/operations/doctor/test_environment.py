import ipaddress
from pathlib import Path

import pytest

from distilray.operations.doctor.environment import Listener, check_token_file, is_offline, listeners

IN_FILE, IN_VARIABLE = "f11e" * 16, "5ec2e7" * 10


@pytest.mark.parametrize(
    ("hub", "transformers", "expected"),
    [
        *[(value, None, True) for value in ("1", "true", "ON", "yes")],
        ("0", None, False),
        (None, None, False),
        ("1", "0", True),
        ("0", "1", False),
        ("", "1", True),
        ("no", "", False),
    ],
)
def test_the_first_variable_that_is_set_forbids_the_hub_as_in_its_client(hub, transformers, expected):
    values = {"HF_HUB_OFFLINE": hub, "TRANSFORMERS_OFFLINE": transformers}
    assert is_offline({name: value for name, value in values.items() if value is not None}) is expected


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


def test_the_tables_of_the_kernel_list_the_listening_sockets(tmp_path):
    with pytest.raises(OSError, match="net/tcp"):  # not an empty list
        listeners(tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    ipv4 = [("0.0.0.0", 8000), ("127.0.0.1", 8265)]
    assert [(str(each.host), each.port) for each in listeners(tmp_path)] == ipv4
    (tmp_path / "net/tcp6").write_text(TCP6)
    expected = [("::ffff:127.0.0.1", 6379), *ipv4, ("::1", 10000), ("2001:db8::1", 30000)]
    assert listeners(tmp_path) == [Listener(ipaddress.ip_address(host), port) for host, port in expected]


@pytest.mark.parametrize(
    ("host", "is_open"),
    [
        *[(host, False) for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")],
        *[(host, True) for host in ("0.0.0.0", "::", "192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7")],
    ],
)
def test_only_sockets_on_loopback_are_closed(host, is_open):
    assert Listener(ipaddress.ip_address(host), 8265).is_open is is_open


@pytest.mark.parametrize(
    ("mode", "environment", "status", "message", "fix"),
    [
        (0o600, {}, "ok", "has mode 0600", ""),
        *[(mode, {}, "fail", f"mode {mode:04o}: others", "chmod 600 {file}") for mode in (0o644, 0o640, 0o604, 0o660)],
        (0o600, {"RAY_AUTH_TOKEN": IN_FILE + "\n"}, "ok", "", ""),
        (0o600, {"RAY_AUTH_TOKEN": IN_VARIABLE}, "warn", "different tokens", "unset RAY_AUTH_TOKEN"),
        (None, {}, "ok", "no file", ""),
        (None, {"RAY_AUTH_TOKEN_PATH": "/none"}, "fail", "every client of Ray fails", "unset RAY_AUTH_TOKEN_PATH"),
    ],
)  # fmt: skip
def test_only_this_user_can_read_the_token_which_agrees_with_the_variable(
    tmp_path: Path, mode, environment, status, message, fix
):
    file = tmp_path / ".ray/auth_token"
    if mode is not None:
        file.parent.mkdir()
        file.write_text(IN_FILE + "\n")
        file.chmod(mode)
    finding = check_token_file(environment, tmp_path)
    assert finding.status == status
    assert message in finding.message
    assert finding.fix.endswith(fix.format(file=file))
    assert not [token for token in (IN_FILE, IN_VARIABLE) if token in finding.message]
