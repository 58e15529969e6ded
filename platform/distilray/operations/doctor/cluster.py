"""The machines of a Ray cluster, read through its dashboard, or by Ray inside of it; never a cluster of our own."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from distilray.errors import InputError
from distilray.operations.doctor.access.dashboard import get_json
from distilray.operations.doctor.check import Finding, fail, ok, warn
from distilray.operations.ray_token import Token
from distilray.operations.submission.access import choose_address

_HEAD = "node:__internal_head__"
_GROUP = "ray.io/node-group"  # label of machines that an autoscaler has started
_NODES = "/api/v0/nodes?detail=true&limit=10000"
_CONNECT_S = 5.0
_PROBE_S = 2.0
_CONTROL_STORE_PORT, _DASHBOARD_PORT = 6379, "8265"
_SETTINGS_FRAME = b"\x04"  # type of an HTTP/2 frame
_GB = 1e9


@dataclass(frozen=True)
class Node:
    """A machine that is alive: CPUs and GPUs as Ray counts them, object store in bytes."""

    cpus: float
    gpus: float
    object_store: float
    is_head: bool
    group: str = ""


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        address: where it was read.
        version: of Ray.
        nodes: machines that are alive.
    """

    address: str
    version: str
    nodes: tuple[Node, ...]

    @property
    def can_grow(self) -> bool:
        """Whether an autoscaler has started its machines, and may start more."""
        return any(node.group for node in self.nodes)

    @property
    def spans_machines(self) -> bool:
        """Whether work may run on another machine than the head."""
        return len(self.nodes) > 1 or self.can_grow


def is_url(address: str) -> bool:
    """Whether an address is of a dashboard, not of Ray's control store."""
    return address.startswith(("http://", "https://"))


def cluster_address(given: str | None, environment: Mapping[str, str]) -> str | None:
    """The cluster that the command or the environment names; None where a job would start a local one.

    `HOST:PORT` on the command line is a dashboard, as for `jobs.submit`, unless Ray's control store answers there.

    Raises:
        InputError: no address of a dashboard or control store.
    """
    by_ray, dashboard = (environment.get(name, "") for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"))
    named = given or by_ray or (dashboard and choose_address(dashboard, {}))
    if not named or named == "local":
        return None
    if not given or named == "auto":
        return named
    url = choose_address(given, {})
    try:
        host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    except ValueError as error:
        raise InputError(f"--address {given}: {error}; give http://HOST:PORT") from None
    return given if "://" not in given and _is_control_store(host, port) else url


def _is_control_store(host: str, port: int) -> bool:
    """Return whether Ray's control store listens there: it greets every client with the SETTINGS frame of HTTP/2."""
    if port == _CONTROL_STORE_PORT:
        return True
    try:
        with socket.create_connection((host, port), timeout=_PROBE_S) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(4)[3:] == _SETTINGS_FRAME
    except OSError:
        return False


def read_cluster(address: str, token: Token | None) -> Cluster:
    """Asks the cluster at an address.

    Raises:
        InputError: no dashboard or control store at the address, or one that refuses.
    """
    return _by_dashboard(address, token) if is_url(address) else _by_ray(address)


def _by_dashboard(address: str, token: Token | None) -> Cluster:
    try:
        version = get_json(address, "/api/version", token)["ray_version"]
        rows = get_json(address, _NODES, token)["data"]["result"]["result"]
        alive = [(row["resources_total"], row.get("labels") or {}) for row in rows if row["state"] == "ALIVE"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{address}: its machines cannot be read ({error}); see the jobs api") from None
    return Cluster(address, version, tuple(_node(*each) for each in alive))


def _by_ray(address: str) -> Cluster:
    import ray

    if ray.is_initialized():
        return Cluster(address, ray.__version__, _ray_nodes(ray.nodes()))
    _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")  # refuses another version of Ray
    try:
        return Cluster(address, ray.__version__, _ray_nodes(ray.nodes()))
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Whether somebody listens there; Ray itself would try for a minute."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # "auto"
    if port == _DASHBOARD_PORT:
        raise InputError(f"{address}: the port of the dashboard; write http://{address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{address}: nothing answers ({error}); give the address of a running cluster") from None


def _ray_nodes(rows: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    return tuple(_node(row["Resources"], row.get("Labels") or {}) for row in rows if row["Alive"])


def _node(resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    cpus, gpus, store = (resources.get(name, 0.0) for name in ("CPU", "GPU", "object_store_memory"))
    return Node(cpus, gpus, store, is_head=_HEAD in resources, group=labels.get(_GROUP, ""))


def check_version(cluster: Cluster, ours: str | None) -> Finding:
    """The cluster runs the Ray of this environment: no client of another version is let in."""
    if ours != cluster.version:
        fix = f"pip install ray=={cluster.version}, or an image with ours"
        return fail(f"Ray {cluster.version} on the cluster, {ours or 'none'} here", fix)
    return ok(f"Ray {cluster.version} on the cluster and here")


def check_nodes(cluster: Cluster) -> Finding:
    """What the cluster has, and that no work is placed on its head."""
    if not cluster.nodes:
        return fail(f"{cluster.address}: no machine is alive", "look at the log of the head; start it anew")
    cpus, gpus, store = (
        sum(getattr(node, name) for node in cluster.nodes) for name in ("cpus", "gpus", "object_store")
    )
    grows = ", an autoscaler" if cluster.can_grow else ""
    machines = "1 machine" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} machines"
    told = f"{machines}: {cpus:g} CPU, {gpus:g} GPU, object store {store / _GB:.1f} GB{grows}"
    on_head = sum(node.cpus for node in cluster.nodes if node.is_head)
    if on_head and cluster.spans_machines:
        return warn(f"{told}; its head offers {on_head:g} CPU", "start the head with --num-cpus=0: it needs its memory")
    return ok(told)
