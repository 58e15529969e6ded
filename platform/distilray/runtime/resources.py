"""Cluster capacity: check that a local cluster is large enough, or let an autoscaling cluster grow and wait for it.

This module also checks that all nodes share the run folder.
"""

import contextlib
import math
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.autoscaler import AutoscalerReport
from distilray.runtime.environment import inside_cluster
from distilray.runtime.progress import format_duration
from distilray.runtime.signals import raise_if_interrupted

GIB = 1 << 30
_POLL_S = 2.0
_REPORT_S = 10.0
_FEASIBILITY_TIMEOUT_S = 30.0  # the autoscaler reports every 5 s
_PROBE_FOLDER = ".probe"
_PROBE_TIMEOUT_S = 120.0  # a new node first starts a worker process
_UNITS = {"CPU": "CPU", "GPU": "GPU", "memory": "GiB of memory"}
_CHECKED_NODES: set[tuple[str, str]] = set()  # pairs of run folder and node id that passed `check_run_dir_shared`


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its labels and total resources by their names in Ray (memory in bytes)."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """Bundles of resources that must be available at the same time, each on one node.

    Attributes:
        noun: purpose of a bundle, in the singular, such as "worker".
        remedy: advice on how to lower the need, for error messages.
        cpus: CPUs per bundle.
        gpus: GPUs per bundle; a fraction is on one device.
        memory: bytes of host memory per bundle.
        count: number of bundles.
        labels: labels that a node must have.
    """

    noun: str
    remedy: str
    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0
    count: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    def bundle(self) -> dict[str, float]:
        """Return the resources of one bundle by their names in Ray."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in amounts.items() if amount}

    def count_fitting(self, nodes: Sequence[Node]) -> int:
        """Return how many bundles fit on idle nodes."""
        return sum(
            self._count_fitting_on(node.resources) for node in nodes if self.labels.items() <= node.labels.items()
        )

    def _count_fitting_on(self, resources: Mapping[str, float]) -> int:
        counts = []
        for name, amount in self.bundle().items():
            available = resources.get(name, 0.0)
            if name == "GPU" and amount < 1:
                counts.append(int(available) * int(1 / amount + 1e-6))
            else:
                counts.append(int(available / amount + 1e-6))
        return min(counts, default=0)

    def __str__(self) -> str:
        amounts = ", ".join(_amount(name, value) for name, value in self.bundle().items())
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        where = f" on nodes with {labels}" if labels else ""
        return f"{self.count} {self.noun}{'' if self.count == 1 else 's'} with {amounts}{where}"


def ensure_capacity(need: Need, *, job: str, run_dir: str | None = None) -> int:
    """Ensure that the cluster has room for `need`, and return how many of its bundles fit at the same time.

    A local cluster cannot grow, so a need that exceeds it is an error. Inside a cluster, request the need and wait
    until it is available, with a status line on stderr every few seconds. The request is a placement group, which Ray
    removes when the job ends, even if the driver is killed.

    Args:
        job: name of the job, for the status lines.
        run_dir: run folder, which all nodes of a cluster must share.

    Raises:
        InputError: a local cluster is too small, or a node does not share `run_dir`.
    """
    if not inside_cluster():
        check_capacity(need, cluster_nodes())
    else:
        _wait(need, job)
        if run_dir is not None:
            check_run_dir_shared(run_dir)
    return need.count_fitting(cluster_nodes())


def check_capacity(need: Need, nodes: Sequence[Node]) -> None:
    """Check that `need` fits on the nodes of a cluster that cannot grow.

    Raises:
        InputError: the nodes are too small.
    """
    if need.count_fitting(nodes) < need.count:
        totals = {name: [node.resources.get(name, 0.0) for node in nodes] for name in need.bundle()}
        available = ", ".join(_amount(name, sum(values)) for name, values in totals.items())
        raise InputError(f"no room for {need}: the local cluster has {available}; {need.remedy}")


def cluster_nodes() -> list[Node]:
    """Return the live nodes of the connected cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()
    return [Node(node["Resources"], node.get("Labels") or {}) for node in nodes if node["Alive"]]


def can_be_satisfied(need: Need) -> bool:
    """Return whether the cluster has room for `need`, or an autoscaler that is making room.

    Inside a cluster, this requests the need for up to half a minute, which may start a node.
    """
    if not inside_cluster():
        return need.count_fitting(cluster_nodes()) >= need.count
    report, deadline = AutoscalerReport(need.bundle()), time.monotonic() + _FEASIBILITY_TIMEOUT_S
    with _requested(need) as group:
        while time.monotonic() < deadline:
            if group.wait(_POLL_S) or report.is_starting_nodes():
                return True
            if report.is_infeasible():
                return False
            raise_if_interrupted()
    return False


def check_run_dir_shared(run_dir: str) -> None:
    """Check that each node shares the run folder: it must read the driver's file and write one that the driver reads.

    A node that has passed is not checked again.

    Raises:
        InputError: names a node that does not share the folder.
    """
    driver = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != driver]
    nodes = [node for node in nodes if (run_dir, node["NodeID"]) not in _CHECKED_NODES]
    if not nodes:
        return
    folder, token = storage.join(run_dir, _PROBE_FOLDER), secrets.token_hex(16).encode()
    storage.write_bytes(storage.join(folder, driver), token)
    try:
        probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
        answers = {
            probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                folder, driver, node["NodeID"], token
            ): node
            for node in nodes
        }
        ray.wait(list(answers), num_returns=len(answers), timeout=_PROBE_TIMEOUT_S)
        for answer, node in answers.items():
            _check_answer(answer, node, folder, token, run_dir)
            _CHECKED_NODES.add((run_dir, node["NodeID"]))
    finally:
        storage.remove_folder(folder)


def _probe(folder: str, driver: str, node: str, token: bytes) -> str:
    """Run on a node: return the reason why it does not share the folder, or an empty string."""
    try:
        if storage.read_bytes(storage.join(folder, driver)) != token:
            return "it reads different data"
        storage.write_bytes(storage.join(folder, node), token)
    except (OSError, InputError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def _check_answer(answer: Any, node: Mapping[str, Any], folder: str, token: bytes, run_dir: str) -> None:
    try:
        reason = ray.get(answer, timeout=0)
        if not reason and storage.read_bytes(storage.join(folder, node["NodeID"])) != token:
            reason = "the driver reads different data from what the node wrote"
    except ray.exceptions.GetTimeoutError:
        reason = f"no answer within {_PROBE_TIMEOUT_S:g} s"
    except FileNotFoundError:
        reason = "the driver does not see the file that the node wrote"
    except ray.exceptions.RayError:
        return  # the node has left the cluster
    if reason:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        raise InputError(
            f"run_dir={run_dir}: node {name} does not share this folder: {' '.join(reason.split())}; choose a folder "
            "on a file system that all nodes mount, or an object store"
        )


def _wait(need: Need, job: str) -> None:
    started, reported = time.monotonic(), float("-inf")
    report = AutoscalerReport(need.bundle())
    with _requested(need) as group:
        while not group.wait(_POLL_S):
            raise_if_interrupted()
            now = time.monotonic()
            if now - reported >= _REPORT_S:
                reported = now
                waited = f"requested {format_duration(now - started)} ago"
                print(f"{job}: waiting for {need}, {waited}; {report.summary()}", file=sys.stderr, flush=True)
    if reported > 0:
        print(
            f"{job}: {need} available after {format_duration(time.monotonic() - started)}", file=sys.stderr, flush=True
        )


@contextlib.contextmanager
def _requested(need: Need) -> Iterator[PlacementGroup]:
    """Request a need from the cluster while the block runs."""
    group = placement_group(
        [need.bundle()] * need.count,
        bundle_label_selector=[dict(need.labels)] * need.count if need.labels else None,
    )
    try:
        yield group
    finally:
        remove_placement_group(group)


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return f"{value / GIB:.1f} {_UNITS[name]}"
    return f"{math.floor(value * 1000) / 1000:g} {_UNITS[name]}"
