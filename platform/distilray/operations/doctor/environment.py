"""Checks of listening ports, Ray's token and environment variables."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distilray.operations.access import (
    AUTH_MODE,
    AUTH_TOKEN,
    AUTH_TOKEN_PATH,
    GENERATE_COMMAND,
    Token,
    find_token,
    token_file,
)
from distilray.operations.doctor.check import Finding, Status, combine, fail, ok, warn

_LISTENING = "0A"  # TCP_LISTEN of the kernel
_CLUSTER_ONLY = "admit only machines of the cluster (security group, firewall)"
_LOOPBACK_ONLY = "start Ray with --dashboard-host=127.0.0.1, and use a tunnel"
_MODES = ("token", "disabled")
_EXPORT_MODE = f"export {AUTH_MODE}=token"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the first one that is set takes effect, as in the hub's client
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost")
_THREADS = "OMP_NUM_THREADS"
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in the driver of a submitted job, where Ray sets the threads itself


@dataclass(frozen=True)
class Service:
    """A range of ports, `first` to `last` inclusive, and the finding if other machines can reach them."""

    first: int
    last: int
    name: str
    status: Status = "warn"
    fix: str = _CLUSTER_ONLY


SERVICES = (
    Service(8265, 8265, "dashboard, runs any code", "fail", _LOOPBACK_ONLY),
    Service(6379, 6379, "Ray's GCS"),
    Service(10001, 10001, "Ray client, runs any code"),
    Service(52365, 52365, "dashboard agent"),
    Service(8000, 8000, "the service", fix="admit only the load balancer, or require keys: DISTILRAY_API_KEYS"),
    Service(9101, 9101, "HAProxy's metrics"),
    Service(8404, 8404, "HAProxy's statistics"),
    Service(8500, 8500, "HAProxy's fallback"),
    Service(30000, 31000, "replicas of Serve"),
)


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @property
    def is_open(self) -> bool:
        """True unless it is bound to loopback."""
        mapped = self.host.ipv4_mapped if isinstance(self.host, ipaddress.IPv6Address) else None
        return not (mapped or self.host).is_loopback


def listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """Return the listening TCP sockets of this machine or container.

    Raises:
        OSError: the kernel provides no table of sockets.
    """
    tables = [proc / "net" / name for name in ("tcp", "tcp6")]
    sockets = {
        listener for table in tables if table == tables[0] or table.exists() for listener in _sockets(table.read_text())
    }
    return sorted(sockets, key=lambda listener: (listener.port, str(listener.host)))


def _sockets(table: str) -> Iterator[Listener]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING:
            host, _, port = fields[1].partition(":")
            # The kernel prints addresses as little-endian words of four bytes.
            packed = b"".join(bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8))
            yield Listener(ipaddress.ip_address(packed), int(port, 16))


def check_ports(sockets: list[Listener]) -> Finding:
    """Check that other machines cannot reach a port that runs code or exposes the cluster."""
    findings = []
    for service in SERVICES:
        reachable = [
            listener for listener in sockets if service.first <= listener.port <= service.last and listener.is_open
        ]
        if reachable:
            ports = ", ".join(dict.fromkeys(str(listener.port) for listener in reachable))
            message = f"{ports} ({service.name}) open to other machines at {reachable[0].host}"
            findings.append(Finding(service.status, message, service.fix))
    return combine(findings, "no port of Ray or Serve is open to other machines")


def check_token_mode(environment: Mapping[str, str], token: Token | None, *, cluster: bool) -> Finding:
    """Check that Ray's clients send the token.

    Args:
        cluster: whether a cluster is used. A local Ray generates its own token.
    """
    mode = environment.get(AUTH_MODE, "")
    if mode and mode not in _MODES:
        return fail(f"{AUTH_MODE}={mode} is none of {', '.join(_MODES)}", _EXPORT_MODE)
    if mode == "disabled":
        status = fail if cluster else warn
        return status(f"{AUTH_MODE}=disabled: anyone who can reach a port of Ray can run code", _EXPORT_MODE)
    if not cluster:
        return ok(f"{AUTH_MODE} {mode or 'not set'}; a local Ray generates its own token")
    if not mode:
        message = f"{AUTH_MODE} is not set: clients may send no token, and `ray start` may run without authentication"
        return warn(message, _EXPORT_MODE)
    if token is None:
        fix = f"copy the token of the cluster, or generate one for a new cluster: {GENERATE_COMMAND}"
        return fail(f"{AUTH_MODE}=token, but there is no token", fix)
    return ok(f"{AUTH_MODE}=token, token from {token.origin}")


def check_token_file(environment: Mapping[str, str], home: Path) -> Finding:
    """Check that only this user can read the token file, and that it agrees with RAY_AUTH_TOKEN."""
    file = token_file(environment, home)
    try:
        permissions = file.stat().st_mode & 0o777
    except OSError as error:
        if AUTH_TOKEN_PATH in environment:
            message = f"{AUTH_TOKEN_PATH}={file}: {error.strerror or error}, so every client of Ray fails"
            return fail(message, f"set it to a readable file, or unset {AUTH_TOKEN_PATH}")
        return ok(f"no file {file}")
    findings = []
    if permissions & 0o077:
        findings.append(fail(f"{file} has mode {permissions:04o}: others can read it", f"chmod 600 {file}"))
    if not os.access(file, os.R_OK):
        findings.append(fail(f"{file} cannot be read by this user", f"chown it, and chmod 600 {file}"))
    in_file, in_variable = find_token({AUTH_TOKEN_PATH: str(file)}, home), environment.get(AUTH_TOKEN, "").strip()
    if in_variable and in_file is not None and in_file.value != in_variable:
        message = f"{AUTH_TOKEN} and {file} contain different tokens; the variable takes precedence"
        findings.append(warn(message, f"unset {AUTH_TOKEN}"))
    return combine(findings, f"{file} has mode {permissions:04o}")


def is_offline(environment: Mapping[str, str]) -> bool:
    """Return whether a variable forbids requests to the hub."""
    value = next((environment[name] for name in _OFFLINE if environment.get(name)), "")
    return value.lower() in ("1", "on", "yes", "true")


def check_proxies(environment: Mapping[str, str]) -> Finding:
    """Check that requests to this machine bypass the proxy. Values may contain passwords and are not printed."""
    lower = {name.lower(): value for name, value in environment.items()}
    proxies = ", ".join(name for name in _PROXIES if lower.get(name))
    bypassed = [entry.strip() for entry in lower.get("no_proxy", "").split(",")]
    if not proxies:
        return ok("no HTTP proxy")
    if "*" in bypassed or all(host in bypassed for host in _LOOPBACK):
        return ok(f"{proxies} set, but bypassed for this machine")
    message = f"{proxies} set and not bypassed for this machine: `ray job submit` and curl would use the proxy"
    return warn(message, f"export no_proxy={','.join(_LOOPBACK)}")


def check_threads(environment: Mapping[str, str], cores: int) -> Finding:
    """Check that Ray chooses the number of threads of each worker."""
    threads = environment.get(_THREADS)
    if not threads or _JOB_CONFIG in environment:
        return ok(f"{_THREADS} is not set by you: Ray gives each worker as many threads as CPUs")
    message = f"{_THREADS}={threads} applies to every worker, however many of the {cores} CPUs it has"
    return warn(message, f"unset {_THREADS}")
