"""Checks of a running Ray cluster. Its state is read from the dashboard or, inside the cluster, from Ray."""

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
_NODE_GROUP = "ray.io/node-group"  # label of nodes that an autoscaler started
_JOBS = "/api/jobs/"
_NODES = "/api/v0/nodes?detail=true&limit=10000"
_CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 2.0
_GCS_PORT, _DASHBOARD_PORT = 6379, "8265"
_SETTINGS_FRAME = b"\x04"  # type of an HTTP/2 frame
_TUNNEL = "open the tunnel (ray dashboard cluster.yaml), or correct --address"
_GB = 1e9

Get = Callable[[str, "str | None"], "tuple[int, bytes]"]


@dataclass(frozen=True)
class ClusterNode:
    """A live node and the resources that Ray registered for it; `object_store` is in bytes."""

    cpus: float
    gpus: float
    object_store: float
    is_head: bool
    group: str = ""


@dataclass(frozen=True)
class ClusterState:
    """Address, Ray version and live nodes of a running cluster."""

    address: str
    version: str
    nodes: tuple[ClusterNode, ...]

    @property
    def can_grow(self) -> bool:
        """True if an autoscaler started the nodes, so that it may start more."""
        return any(node.group for node in self.nodes)


def cluster_address(address: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the cluster address from the command line or the environment, or None if a job would start a local Ray.

    `HOST:PORT` on the command line refers to a dashboard, as for `jobs.submit`, unless Ray's GCS listens there.

    Raises:
        InputError: the address is neither that of a dashboard nor that of a GCS.
    """
    dashboard = environment.get("RAY_API_SERVER_ADDRESS", "")
    cluster = address or environment.get("RAY_ADDRESS", "") or (dashboard and dashboard_url(dashboard, {}))
    if not cluster or cluster == "local":
        return None
    if not address or cluster == "auto":
        return cluster
    url = dashboard_url(address, {})
    try:
        host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    except ValueError as error:
        raise InputError(f"--address {address}: {error}; give http://HOST:PORT") from None
    return address if "://" not in address and _is_gcs(host, port) else url


def _is_gcs(host: str, port: int) -> bool:
    """Return whether Ray's GCS listens on a port. As a gRPC server, it sends every client an HTTP/2 SETTINGS frame."""
    if port == _GCS_PORT:
        return True
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(4)[3:] == _SETTINGS_FRAME
    except OSError:
        return False


def read_cluster(address: str, token: Token | None) -> ClusterState:
    """Read the state of the cluster at an address.

    Raises:
        InputError: no dashboard or GCS answers at the address, or it refuses the request.
    """
    return _read_from_dashboard(address, token) if is_dashboard_url(address) else _read_with_ray(address)


def _read_from_dashboard(address: str, token: Token | None) -> ClusterState:
    try:
        version = get_json(address, "/api/version", token)["ray_version"]
        rows = get_json(address, _NODES, token)["data"]["result"]["result"]
        nodes = [_node(row["resources_total"], row.get("labels")) for row in rows if row["state"] == "ALIVE"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{address}: cannot list its nodes ({error}); see the check 'jobs api'") from None
    return ClusterState(address, version, tuple(nodes))


def _read_with_ray(address: str) -> ClusterState:
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        _check_port_is_open(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")  # refuses another version of Ray
    try:
        nodes = tuple(_node(row["Resources"], row.get("Labels")) for row in ray.nodes() if row["Alive"])
        return ClusterState(address, ray.__version__, nodes)
    finally:
        if not was_connected:
            ray.shutdown()


def _check_port_is_open(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would retry for a minute."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # "auto"
    if port == _DASHBOARD_PORT:
        raise InputError(f"{address}: this is the port of the dashboard; write http://{address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{address}: nothing answers ({error}); give the address of a running cluster") from None


def _node(resources: Mapping[str, float], labels: Mapping[str, str] | None) -> ClusterNode:
    cpus, gpus, store = (resources.get(name, 0.0) for name in ("CPU", "GPU", "object_store_memory"))
    return ClusterNode(cpus, gpus, store, is_head=_HEAD in resources, group=(labels or {}).get(_NODE_GROUP, ""))


def check_access(address: str, token: Token | None, get: Get = http_get) -> Finding:
    """Check that the jobs API, which can run any code, refuses requests without the token and accepts ours.

    The token is sent only to a server that rejects requests exactly as Ray does.

    Args:
        get: (URL, token or None) -> status and body.
    """
    url = address.rstrip("/") + _JOBS
    try:
        status = get(url, None)[0]
        if status == 200:
            message = f"{address} is open: its jobs API accepts requests without a token, so anyone can run code"
            fix = "export RAY_AUTH_MODE=token before every `ray start`, restart Ray, and close port 8265"
            return fail(message, fix)
        if status != 401:
            message = f"{address}: status {status} without a token, but Ray's jobs API returns 401"
            return fail(message, "correct --address")
        status = get(url, secrets.token_hex(32))[0]
        if status != 403:
            message = f"{address}: status {status} with a wrong token, but Ray returns 403"
            return fail(message, "find out which server listens there")
        message = f"{address}: 401 without a token, 403 with a wrong one"
        if token is None:
            return fail(f"{message}; there is no token on this machine", "copy the token of the cluster")
        status = get(url, token.value)[0]
    except (OSError, ValueError) as error:
        return fail(f"{address}: no answer ({getattr(error, 'reason', None) or error})", _TUNNEL)
    if status != 200:
        return fail(f"{address}: {status} with the token of {token.origin}", "copy the token of the cluster's head")
    message += ", 200 with ours"
    if not address.startswith("https:") and not is_loopback(urlsplit(address).hostname or ""):
        return warn(f"{message}; it is sent in plain text", "use the tunnel of `ray dashboard`, or TLS")
    return ok(message)


def check_version(cluster: ClusterState, installed: str | None) -> Finding:
    """Check that the cluster runs the installed version of Ray; it accepts no clients of other versions."""
    if installed != cluster.version:
        fix = f"pip install ray=={cluster.version}, or use an image with the version of this machine"
        return fail(f"Ray {cluster.version} on the cluster, {installed or 'none'} here", fix)
    return ok(f"Ray {cluster.version} on the cluster and here")


def check_nodes(cluster: ClusterState) -> Finding:
    """Summarize the nodes, and check that no tasks are scheduled on the head."""
    nodes = cluster.nodes
    if not nodes:
        return fail(f"{cluster.address}: no node is alive", "read the log of the head and restart it")
    cpus, gpus, store = (sum(getattr(node, name) for node in nodes) for name in ("cpus", "gpus", "object_store"))
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    autoscaler = ", an autoscaler" if cluster.can_grow else ""
    message = f"{count}: {cpus:g} CPU, {gpus:g} GPU, object store {store / _GB:.1f} GB{autoscaler}"
    on_head = sum(node.cpus for node in nodes if node.is_head)
    if on_head and (len(nodes) > 1 or cluster.can_grow):
        fix = "start the head with --num-cpus=0, so that tasks do not use up its memory"
        return warn(f"{message}; its head offers {on_head:g} CPU", fix)
    return ok(message)


def check_workers(need: WorkerNeed | None, nodes: Sequence[ClusterNode], cluster: ClusterState | None) -> Finding:
    """Check that the nodes have room for the workers of a recipe.

    Args:
        nodes: nodes of the cluster, or this machine as the only node.
        cluster: None if a job would start a local Ray, which refuses workers that do not fit.
    """
    if need is None:
        return ok("one process, or as many tasks as fit")
    from distilray.runtime import resources  # imports Ray, which may not be installed

    bundle = resources.Need("worker", "", cpus=need.cpus, gpus=need.gpus)
    room = bundle.count_fitting([resources.Node({"CPU": node.cpus, "GPU": node.gpus}) for node in nodes])
    message = f"{need} requested, {cluster.address if cluster else 'this machine'} has room for {room}"
    if room >= need.workers:
        return ok(message)
    if room >= need.min_workers:
        return warn(f"{message}; the job starts with fewer workers", f"add machines, or set {need.key}={room}")
    if cluster is not None and cluster.can_grow:
        fix = "make sure that a node type of the cluster file has room for such a worker"
        return warn(f"{message} now; the autoscaler has to add machines", fix)
    reduce = f"set {need.key}={room}" if room and need.workers > 1 else "use a recipe with fewer or smaller workers"
    if need.gpus and not room:
        reduce = "set scaling.use_gpu=false" if need.key == "scaling.num_workers" else f"set {need.key}=0"
    gpus = sum(node.gpus for node in nodes)
    if cluster is None or gpus < need.min_workers * need.gpus:
        return fail(f"{message}, with {gpus:g} GPU in total" if need.gpus else message, f"add machines, or {reduce}")
    return warn(f"{message}; the job would wait for more", f"add machines, or {reduce}")
