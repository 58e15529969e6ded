"""The table of checks, and the facts that they share."""

from __future__ import annotations

import functools
import os
import pyexpat
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import distilray
from distilray.config.paths import is_path, path_of
from distilray.errors import InputError
from distilray.operations.access import Token, find_token, is_dashboard_url
from distilray.operations.doctor import cluster as clusters
from distilray.operations.doctor import environment, machine, packages
from distilray.operations.doctor.check import Finding, Row, together, warn
from distilray.operations.workers import worker_need

if TYPE_CHECKING:
    from distilray.config.base import JobConfig

_SHM = Path("/dev/shm")  # noqa: S108 - the folder of Ray's object store


@dataclass(frozen=True)
class Subject:
    """This machine, the cluster of the environment or the command, and a recipe if there is one.

    Attributes:
        address: of a cluster, as in the command.
        config: of a recipe.
        storage_uri: to check instead of the recipe's run_dir.
        environment: of this process.
        import_problems: of installed packages, see `packages.import_problems`.
    """

    address: str | None
    config: JobConfig | None
    storage_uri: str | None
    environment: Mapping[str, str]
    import_problems: Mapping[str, Finding] = field(default_factory=dict)
    _answers: list[clusters.Cluster | None] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.address and "@" in self.address:
            raise InputError("--address: holds a user or password; give http://HOST:PORT alone")

    @functools.cached_property
    def cluster_address(self) -> str | None:
        """Address of the cluster; None where a job would start a local Ray."""
        return clusters.cluster_address(self.address, self.environment)

    @property
    def has_cluster(self) -> bool:
        return self.cluster_address is not None

    @property
    def dashboard(self) -> str:
        """The address if it is that of a dashboard, else empty."""
        address = self.cluster_address or ""
        return address if is_dashboard_url(address) else ""

    @property
    def cluster(self) -> clusters.Cluster:
        """The machines of the cluster, which is asked once, even if it does not answer.

        Raises:
            InputError: it does not.
        """
        assert self.cluster_address is not None
        if not self._answers:
            self._answers.append(None)  # until there is an answer
            self._answers.append(clusters.read_cluster(self.cluster_address, self.token))
        answer = self._answers[-1]
        if answer is None:
            raise InputError(f"{self.cluster_address}: does not answer; see above")
        return answer

    @functools.cached_property
    def token(self) -> Token | None:
        """The token that a client on this machine would send."""
        return find_token(self.environment, Path.home())

    @property
    def outside(self) -> bool:
        """Whether the folders of the recipe are those of other machines."""
        by_ray = self.environment.get("RAY_ADDRESS", "")  # Ray sets it to the control store in a submitted job
        return bool(self.dashboard) and (not by_ray or is_dashboard_url(by_ray))

    @property
    def uri(self) -> str | None:
        """The folder that is written."""
        return self.storage_uri or (self.config.run_dir if self.config else None)

    @property
    def num_cpus(self) -> int | None:
        """CPUs of the local Ray that a job would start; None for all cores."""
        return getattr(getattr(self.config, "ray", None), "num_cpus", None)

    @property
    def store_bytes(self) -> int:
        """Object store of this machine: of the head, where drivers run, or of a local Ray."""
        try:
            heads = [node for node in self.cluster.nodes if node.is_head] if self.has_cluster else []
        except InputError:
            heads = []  # reported by a check of its own
        if heads:
            return int(heads[0].object_store)
        megabytes = getattr(getattr(self.config, "ray", None), "object_store_mb", None)
        return machine.object_store_bytes(megabytes, machine.Memory.of().total)


class TableRow(NamedTuple):
    """A check: its name, its function, and whether it applies."""

    name: str
    find: Callable[[Subject], Finding]
    applies: Callable[[Subject], object] = lambda _: True


def rows(subject: Subject) -> list[Row]:
    """Return the checks that apply, in the order of the table."""
    return [Row(row.name, functools.partial(row.find, subject)) for row in CHECKS if row.applies(subject)]


def _checkout() -> Path | None:
    return packages.checkout_of(Path(distilray.__file__))


def _lock() -> Path | None:
    lock = (_checkout() or Path("none")) / "requirements.lock"
    return lock if lock.is_file() else None


def _check_lock(_: Subject) -> Finding:
    lock = _lock()
    assert lock is not None
    return packages.check_lock(lock.read_text(), packages.installed_version)


def _check_shadow(_: Subject) -> Finding:
    return packages.check_shadow(Path(distilray.__file__).parent, packages.checkout_of(Path("platform/distilray/x")))


def _check_ray(subject: Subject) -> Finding:
    if subject.has_cluster:
        return clusters.check_version(subject.cluster, packages.installed_version("ray"))
    return machine.check_local_ray(subject.num_cpus, os.cpu_count() or 1, machine.cpu_quota())


def _check_shared_memory(subject: Subject) -> Finding:
    return machine.check_shared_memory(shutil.disk_usage(_SHM).total if _SHM.is_dir() else 0, subject.store_bytes)


def _check_spill_disk(subject: Subject) -> Finding:
    folder = subject.environment.get("RAY_TMPDIR") or tempfile.gettempdir()
    return machine.check_disk(machine.Disk.of(Path(folder)), spills=True)


def _check_workers(subject: Subject) -> Finding:
    need = worker_need(subject.config) if subject.config else None
    if subject.has_cluster:
        try:
            return clusters.check_workers(need, subject.cluster.nodes, subject.cluster)
        except InputError:
            return warn(f"{need or 'workers'} not compared with the cluster, which does not answer", "see above")
    gpus = len(machine.Torch.of().devices) if need is not None and need.gpus else 0
    here = clusters.Node(float(subject.num_cpus or os.cpu_count() or 1), float(gpus), 0.0, is_head=True)
    return clusters.check_workers(need, [here], None)


def _check_folders(subject: Subject) -> Finding:
    mounts = None if subject.outside else Path("/proc/mounts").read_text()
    return _recipe().check_folders(subject.config, mounts)


def _check_models(subject: Subject) -> Finding:
    offline = environment.is_offline(subject.environment)
    return _recipe().check_models(subject.config, offline=offline, outside=subject.outside)


def _check_run_disk(subject: Subject) -> Finding:
    needed = _recipe().run_bytes(subject.config) if subject.config else None
    return machine.check_disk(machine.Disk.of(path_of(subject.uri or "")), needed=needed)


def _recipe() -> Any:
    from distilray.operations.doctor import recipe  # needs packages that may be missing

    return recipe


def _works(subject: Subject) -> bool:
    return not subject.outside


def _has_config(subject: Subject) -> bool:
    return subject.config is not None


CHECKS: tuple[TableRow, ...] = (
    TableRow("python", lambda _: packages.check_python(sys.version_info[:3])),
    TableRow("packages", lambda _: packages.check_packages(_checkout(), packages.installed_version)),
    TableRow("lock file", _check_lock, lambda _: _lock()),
    TableRow("imports", lambda s: together(s.import_problems.values(), "every installed package of native code loads")),
    TableRow("expat", lambda _: packages.check_expat(pyexpat.version_info)),
    TableRow("distilray", _check_shadow),
    TableRow("token mode", lambda s: environment.check_token_mode(s.environment, s.token, cluster=s.has_cluster)),
    TableRow("token file", lambda s: environment.check_token_file(s.environment, Path.home())),
    TableRow("jobs api", lambda s: clusters.check_access(s.dashboard, s.token), lambda s: s.dashboard),
    TableRow("ray", _check_ray),
    TableRow("cluster", lambda s: clusters.check_nodes(s.cluster), lambda s: s.has_cluster),
    TableRow("ports", lambda _: environment.check_ports(environment.listeners())),
    TableRow("memory", lambda _: machine.check_memory(machine.Memory.of()), _works),
    TableRow("shared memory", _check_shared_memory, _works),
    TableRow("spill disk", _check_spill_disk, _works),
    TableRow("cache disk", lambda _: machine.check_disk(machine.Disk.of(Path("~/.cache").expanduser())), _works),
    TableRow("gpu", lambda _: machine.check_devices(machine.Torch.of()), _works),
    TableRow("proxies", lambda s: environment.check_proxies(s.environment)),
    TableRow("threads", lambda s: environment.check_threads(s.environment, os.cpu_count() or 1), _works),
    TableRow("workers", _check_workers, _has_config),
    TableRow("runs", lambda s: _recipe().check_runs(s.config, outside=s.outside), _has_config),
    TableRow("models", _check_models, _has_config),
    TableRow("folders", _check_folders, lambda s: _has_config(s) and s.has_cluster),
    TableRow("run disk", _check_run_disk, lambda s: s.uri and is_path(s.uri) and not s.outside),
    TableRow("storage", lambda s: _recipe().check_store(s.uri, outside=s.outside), lambda s: s.uri),
)
