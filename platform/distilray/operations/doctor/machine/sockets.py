"""Ports of Ray and Serve on this machine that others can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distilray.operations.doctor.check import Finding, Status, together

_LISTENING = "0A"
_INSIDE = "admit machines of the cluster alone (security group, firewall)"


@dataclass(frozen=True)
class Listener:
    """A TCP socket that waits for connections."""

    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @property
    def is_open(self) -> bool:
        """Whether another machine may reach it."""
        mapped = self.host.ipv4_mapped if isinstance(self.host, ipaddress.IPv6Address) else None
        return not (mapped or self.host).is_loopback


@dataclass(frozen=True)
class Service:
    """Ports with one meaning; the status that they have when others can reach them, and the fix."""

    ports: range
    name: str
    status: Status
    fix: str


def _one(port: int) -> range:
    return range(port, port + 1)


SERVICES = (
    Service(_one(8265), "dashboard, runs any code", "fail", "start Ray with --dashboard-host=127.0.0.1, and tunnel"),
    Service(_one(6379), "Ray's control store", "warn", _INSIDE),
    Service(_one(10001), "Ray client, runs any code", "warn", _INSIDE),
    Service(_one(52365), "agent of the dashboard", "warn", _INSIDE),
    Service(_one(8000), "the service", "warn", "admit the load balancer alone, or give keys: DISTILRAY_API_KEYS"),
    Service(_one(9101), "HAProxy's metrics", "warn", _INSIDE),
    Service(_one(8404), "HAProxy's statistics", "warn", _INSIDE),
    Service(_one(8500), "HAProxy's stand-in", "warn", _INSIDE),
    Service(range(30000, 31001), "replicas of Serve", "warn", _INSIDE),
)


def listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """The listening TCP sockets of this machine, or container.

    Args:
        proc: root of the kernel's tables.

    Raises:
        OSError: the kernel has no such table.
    """
    tables = [proc / "net" / name for name in ("tcp", "tcp6")]
    found = {one for table in tables if table == tables[0] or table.exists() for one in _rows(table.read_text())}
    return sorted(found, key=lambda one: (one.port, str(one.host)))


def _rows(table: str) -> Iterator[Listener]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING:
            host, _, port = fields[1].partition(":")
            yield Listener(_address(host), int(port, 16))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel prints it: words of four bytes, each with its last byte first."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    packed = b"".join(words)
    return ipaddress.IPv4Address(packed) if len(packed) == 4 else ipaddress.IPv6Address(packed)


def check_ports(found: list[Listener]) -> Finding:
    """No port that runs code, or tells of the cluster, is open to other machines."""
    findings = []
    for service in SERVICES:
        mine = [one for one in found if one.port in service.ports and one.is_open]
        if mine:
            ports = ", ".join(dict.fromkeys(str(one.port) for one in mine))
            told = f"{ports} ({service.name}) open to other machines at {mine[0].host}"
            findings.append(Finding(service.status, told, service.fix))
    return together(findings, "no port of Ray or Serve is open to other machines")
