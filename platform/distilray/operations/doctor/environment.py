"""Checks of open ports, Ray's token and environment variables."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distilray.operations.access import AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH, Token, find_token, token_file
from distilray.operations.doctor.check import Finding, Status, fail, ok, together, warn

_LISTENING = "0A"
_INSIDE = "admit machines of the cluster alone (security group, firewall)"
_LOOPBACK_ONLY = "start Ray with --dashboard-host=127.0.0.1, and tunnel"
_MODES = ("token", "disabled")
_GENERATE = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
_EXPORT = f"export {AUTH_MODE}=token"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the first that is set decides, as in the hub's client
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost")
_THREADS = "OMP_NUM_THREADS"
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the driver of a submitted job, whose threads Ray has set itself


@dataclass(frozen=True)
class Service:
    """A range of ports, first and last, and the finding if other machines can reach them."""

    first: int
    last: int
    name: str
    status: Status = "warn"
    fix: str = _INSIDE


SERVICES = (
    Service(8265, 8265, "dashboard, runs any code", "fail", _LOOPBACK_ONLY),
    Service(6379, 6379, "Ray's control store"),
    Service(10001, 10001, "Ray client, runs any code"),
    Service(52365, 52365, "agent of the dashboard"),
    Service(8000, 8000, "the service", fix="admit the load balancer alone, or give keys: DISTILRAY_API_KEYS"),
    Service(9101, 9101, "HAProxy's metrics"),
    Service(8404, 8404, "HAProxy's statistics"),
    Service(8500, 8500, "HAProxy's stand-in"),
    Service(30000, 31000, "replicas of Serve"),
)


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


def listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """Return the listening TCP sockets of this machine, or container.

    Raises:
        OSError: the kernel has no such table.
    """
    tables = [proc / "net" / name for name in ("tcp", "tcp6")]
    sockets = {one for table in tables if table == tables[0] or table.exists() for one in _sockets(table.read_text())}
    return sorted(sockets, key=lambda one: (one.port, str(one.host)))


def _sockets(table: str) -> Iterator[Listener]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING:
            host, _, port = fields[1].partition(":")
            # The kernel prints words of four bytes, each with its last byte first.
            packed = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
            yield Listener(ipaddress.ip_address(packed), int(port, 16))


def check_ports(sockets: list[Listener]) -> Finding:
    """Check that no port that runs code, or reveals the cluster, is open to other machines."""
    findings = []
    for service in SERVICES:
        own = [one for one in sockets if service.first <= one.port <= service.last and one.is_open]
        if own:
            ports = ", ".join(dict.fromkeys(str(one.port) for one in own))
            found = f"{ports} ({service.name}) open to other machines at {own[0].host}"
            findings.append(Finding(service.status, found, service.fix))
    return together(findings, "no port of Ray or Serve is open to other machines")


def check_token_mode(environment: Mapping[str, str], token: Token | None, *, cluster: bool) -> Finding:
    """Check that Ray's clients send the token.

    Args:
        cluster: whether there is a cluster to talk to. A local Ray makes a token of its own.
    """
    mode = environment.get(AUTH_MODE, "")
    if mode and mode not in _MODES:
        return fail(f"{AUTH_MODE}={mode} is none of {', '.join(_MODES)}", _EXPORT)
    if mode == "disabled":
        return (fail if cluster else warn)(f"{AUTH_MODE}=disabled: whoever reaches a port of Ray runs code", _EXPORT)
    if not cluster:
        return ok(f"{AUTH_MODE} {mode or 'not set'}; a local Ray has a token of its own")
    if not mode:
        return warn(f"{AUTH_MODE} is not set: a client may send no token, and `ray start` may run open", _EXPORT)
    if token is None:
        return fail(
            f"{AUTH_MODE}=token, and there is no token", f"copy that of the cluster, or for a new one: {_GENERATE}"
        )
    return ok(f"{AUTH_MODE}=token, token from {token.origin}")


def check_token_file(environment: Mapping[str, str], home: Path) -> Finding:
    """Check that nobody else reads the token's file, and that it does not contradict the variable."""
    file = token_file(environment, home)
    try:
        permissions = file.stat().st_mode & 0o777
    except OSError as error:
        if AUTH_TOKEN_PATH in environment:
            found = f"{AUTH_TOKEN_PATH} names {file}: {error.strerror or error}, which ends every client of Ray"
            return fail(found, f"name a file that can be read, or unset {AUTH_TOKEN_PATH}")
        return ok(f"no file {file}")
    findings = []
    if permissions & 0o077:
        findings.append(fail(f"{file} has mode {permissions:04o}: others can read it", f"chmod 600 {file}"))
    if not os.access(file, os.R_OK):
        findings.append(fail(f"{file} cannot be read by this user", f"chown it, and chmod 600 {file}"))
    in_file, in_variable = find_token({AUTH_TOKEN_PATH: str(file)}, home), environment.get(AUTH_TOKEN, "").strip()
    if in_variable and in_file is not None and in_file.value != in_variable:
        findings.append(
            warn(f"{AUTH_TOKEN} and {file} hold different tokens; the variable wins", f"unset {AUTH_TOKEN}")
        )
    return together(findings, f"{file} has mode {permissions:04o}")


def is_offline(environment: Mapping[str, str]) -> bool:
    """Return whether a variable forbids to ask the hub."""
    value = next((environment[name] for name in _OFFLINE if environment.get(name)), "")
    return value.lower() in ("1", "on", "yes", "true")


def check_proxies(environment: Mapping[str, str]) -> Finding:
    """Check that requests to this machine itself use no proxy. Values may hold passwords, and are not shown."""
    lower = {name.lower(): value for name, value in environment.items()}
    proxies = ", ".join(name for name in _PROXIES if lower.get(name))
    direct = [entry.strip() for entry in lower.get("no_proxy", "").split(",")]
    if not proxies:
        return ok("no proxy for HTTP")
    if "*" in direct or all(host in direct for host in _LOOPBACK):
        return ok(f"{proxies} set, not for this machine itself")
    found = f"{proxies} set, also for this machine: `ray job submit` and curl would ask the proxy"
    return warn(found, f"export no_proxy={','.join(_LOOPBACK)}")


def check_threads(environment: Mapping[str, str], cores: int) -> Finding:
    """Check that Ray chooses the threads of each worker."""
    threads = environment.get(_THREADS)
    if not threads or _SUBMITTED in environment:
        return ok(f"{_THREADS} not set by you: Ray gives each worker as many threads as CPUs")
    return warn(f"{_THREADS}={threads} for every worker, whatever its CPUs (of {cores})", f"unset {_THREADS}")
