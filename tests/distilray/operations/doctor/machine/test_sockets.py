import ipaddress

import pytest

from distilray.operations.doctor.machine.sockets import Listener, check_ports, listeners

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


def test_the_tables_of_the_kernel_give_address_and_port_of_what_listens(tmp_path):
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
def test_only_what_is_bound_to_loopback_is_closed(host, is_open):
    assert at(host, 8265).is_open is is_open


def test_an_open_dashboard_fails():
    found = check_ports([at("0.0.0.0", 8265), at("0.0.0.0", 8000)])
    assert found.status == "fail"
    assert "8265 (dashboard, runs any code)" in found.found
    assert "--dashboard-host=127.0.0.1" in found.fix


@pytest.mark.parametrize("port", [6379, 10001, 52365, 8000, 9101, 8404, 8500, 30000, 31000])
def test_other_open_ports_of_ray_and_serve_are_a_warning(port):
    found = check_ports([at("::", port)])
    assert (found.status, str(port) in found.found, bool(found.fix)) == ("warn", True, True)


@pytest.mark.parametrize("found", [[], [at("127.0.0.1", 8265), at("0.0.0.0", 22), at("0.0.0.0", 31001)]])
def test_closed_and_foreign_ports_are_fine(found):
    assert check_ports(found).status == "ok"
