"""Checks of a running Ray cluster, read through its dashboard, or by Ray inside of it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from distilray.errors import InputError
from distilray.operations.access import Token, dashboard_url, get_json, http_get, is_dashboard_url, is_loopback
from distilray.operations.doctor.check import Finding, fail, ok, warn
from distilray.operations.workers import WorkerNeed

_HEAD = "node:__internal_head__"
_GROUP = "ray.io/node-group"  # label of machines that an autoscaler has started
_JOBS = "/api/jobs/"
_NODES = "/api/v0/nodes?detail=true&limit=10000"
_CONNECT_S = 5.0
_PROBE_S = 2.0
_CONTROL_STORE_PORT, _DASHBOARD_PORT = 6379, "8265"
_SETTINGS_FRAME = b"\x04"  # type of an HTTP/2 frame
_TUNNEL = "open the tunnel (ray dashboard cluster.yaml), or correct --address"
_GB = 1e9

Get = Callable[[str, "str | None"], "tuple[int, bytes]"]


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
    """A running cluster: the address that was asked, its version of Ray, and the machines that are alive."""

    address: str
    version: str
    nodes: tuple[Node, ...]

    @property
    def can_grow(self) -> bool:
        """Whether an autoscaler has started its machines, and may start more."""
        return any(node.group for node in self.nodes)


def cluster_address(address: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the address of the cluster that the command or the environment names; None for a local Ray.

    `HOST:PORT` on the command line is a dashboard, as for `jobs.submit`, unless Ray's control store answers there.

    Raises:
        InputError: no address of a dashboard or control store.
    """
    by_ray, dashboard = (environment.get(name, "") for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"))
    named = address or by_ray or (dashboard and dashboard_url(dashboard, {}))
    if not named or named == "local":
        return None
    if not address or named == "auto":
        return named
    url = dashboard_url(address, {})
    try:
        host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    except ValueError as error:
        raise InputError(f"--address {address}: {error}; give http://HOST:PORT") from None
    return address if "://" not in address and _is_control_store(host, port) else url


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
    """Ask the cluster at an address for its machines.

    Raises:
        InputError: no dashboard or control store at the address, or one that refuses.
    """
    return _by_dashboard(address, token) if is_dashboard_url(address) else _by_ray(address)


def _by_dashboard(address: str, token: Token | None) -> Cluster:
    try:
        version = get_json(address, "/api/version", token)["ray_version"]
        rows = get_json(address, _NODES, token)["data"]["result"]["result"]
        nodes = [_node(row["resources_total"], row.get("labels")) for row in rows if row["state"] == "ALIVE"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{address}: its machines cannot be read ({error}); see the jobs api") from None
    return Cluster(address, version, tuple(nodes))


def _by_ray(address: str) -> Cluster:
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        _check_listens(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")  # refuses another version of Ray
    try:
        nodes = tuple(_node(row["Resources"], row.get("Labels")) for row in ray.nodes() if row["Alive"])
        return Cluster(address, ray.__version__, nodes)
    finally:
        if not was_connected:
            ray.shutdown()


def _check_listens(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would try for a minute."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # "auto"
    if port == _DASHBOARD_PORT:
        raise InputError(f"{address}: the port of the dashboard; write http://{address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{address}: nothing answers ({error}); give the address of a running cluster") from None


def _node(resources: Mapping[str, float], labels: Mapping[str, str] | None) -> Node:
    cpus, gpus, store = (resources.get(name, 0.0) for name in ("CPU", "GPU", "object_store_memory"))
    return Node(cpus, gpus, store, is_head=_HEAD in resources, group=(labels or {}).get(_GROUP, ""))


def check_access(address: str, token: Token | None, get: Get = http_get) -> Finding:
    """Check that the jobs API, which runs any code, refuses requests without the token and accepts ours.

    Our token is sent only to a server that asks for one as Ray does.

    Args:
        get: (URL, token or None) -> status and body.
    """
    url = address.rstrip("/") + _JOBS
    try:
        bare = get(url, None)[0]
        if bare == 200:
            found = f"{address} is open: its jobs API answers 200 without a token, whoever reaches it runs code"
            return fail(found, "export RAY_AUTH_MODE=token before every `ray start`, start anew, and close port 8265")
        if bare != 401:
            return fail(f"{address}: {bare} without a token, where Ray's jobs API answers 401", "correct --address")
        wrong = get(url, secrets.token_hex(32))[0]
        if wrong != 403:
            return fail(f"{address}: {wrong} with a wrong token, where Ray answers 403", "see what answers there")
        found = f"{address}: 401 without a token, 403 with a wrong one"
        if token is None:
            return fail(f"{found}; none here to send", "copy the cluster's")
        right = get(url, token.value)[0]
    except (OSError, ValueError) as error:
        return fail(f"{address}: no answer ({getattr(error, 'reason', None) or error})", _TUNNEL)
    if right != 200:
        return fail(f"{address}: {right} with the token of {token.origin}", "copy the token of the cluster's head")
    found += ", 200 with ours"
    if not address.startswith("https:") and not is_loopback(urlsplit(address).hostname or ""):
        return warn(f"{found}; it travels in plain text", "use the tunnel of `ray dashboard`, or TLS")
    return ok(found)


def check_version(cluster: Cluster, ours: str | None) -> Finding:
    """Check that the cluster runs our version of Ray, which accepts no client of another one."""
    if ours != cluster.version:
        fix = f"pip install ray=={cluster.version}, or an image with ours"
        return fail(f"Ray {cluster.version} on the cluster, {ours or 'none'} here", fix)
    return ok(f"Ray {cluster.version} on the cluster and here")


def check_nodes(cluster: Cluster) -> Finding:
    """Sum up the machines, and check that no work is placed on the head."""
    nodes = cluster.nodes
    if not nodes:
        return fail(f"{cluster.address}: no machine is alive", "look at the log of the head; start it anew")
    cpus, gpus, store = (sum(getattr(node, name) for node in nodes) for name in ("cpus", "gpus", "object_store"))
    machines = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
    grows = ", an autoscaler" if cluster.can_grow else ""
    found = f"{machines}: {cpus:g} CPU, {gpus:g} GPU, object store {store / _GB:.1f} GB{grows}"
    on_head = sum(node.cpus for node in nodes if node.is_head)
    if on_head and (len(nodes) > 1 or cluster.can_grow):
        return warn(
            f"{found}; its head offers {on_head:g} CPU", "start the head with --num-cpus=0: it needs its memory"
        )
    return ok(found)


def check_workers(need: WorkerNeed | None, nodes: Sequence[Node], cluster: Cluster | None) -> Finding:
    """Check that the workers of a recipe fit.

    Args:
        nodes: machines of the cluster, or this one.
        cluster: None where a job would start a local Ray, which refuses what does not fit.
    """
    if need is None:
        return ok("one process, or as many tasks as there is room for")
    from distilray.runtime import resources  # imports Ray, which may not be installed

    bundle = resources.Need("worker", "", cpus=need.cpus, gpus=need.gpus)
    room = bundle.count_fitting([resources.Node({"CPU": node.cpus, "GPU": node.gpus}) for node in nodes])
    found = f"{need} asked for, {cluster.address if cluster else 'this machine'} has room for {room}"
    if room >= need.workers:
        return ok(found)
    if room >= need.min_workers:
        return warn(f"{found}; the job begins with fewer", f"add machines, or {need.key}={room}")
    if cluster is not None and cluster.can_grow:
        return warn(f"{found} now; its autoscaler has to add machines", "see that its node types hold such a worker")
    lower = f"{need.key}={room}" if room and need.workers > 1 else "a recipe for fewer or smaller workers"
    if need.gpus and not room:
        lower = "scaling.use_gpu=false" if need.key == "scaling.num_workers" else f"{need.key}=0"
    gpus = sum(node.gpus for node in nodes)
    if cluster is None or gpus < need.min_workers * need.gpus:
        return fail(f"{found}, with {gpus:g} GPU in all" if need.gpus else found, f"more machines, or {lower}")
    return warn(f"{found}; the job would wait for more", f"more machines, or {lower}")
