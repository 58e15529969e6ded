"""Table of the doctor's checks, and the context that they share."""

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
from distilray.operations.doctor.check import Check, Finding, combine, warn
from distilray.operations.workers import worker_need

if TYPE_CHECKING:
    from distilray.config.base import JobConfig

_SHM = Path("/dev/shm")  # noqa: S108 - Ray's object store


@dataclass(frozen=True)
class CheckContext:
    """Command-line arguments, environment and cluster state that the checks share.

    Attributes:
        address: cluster address from the command line.
        config: configuration from the recipe.
        storage_uri: folder to check instead of the recipe's run_dir.
        environment: environment variables of this process.
        import_problems: findings about installed packages that cannot be imported, see `packages.import_problems`.
    """

    address: str | None
    config: JobConfig | None
    storage_uri: str | None
    environment: Mapping[str, str]
    import_problems: Mapping[str, Finding] = field(default_factory=dict)
    _states: list[clusters.ClusterState | None] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.address and "@" in self.address:
            raise InputError("--address: contains a user name or password; give only http://HOST:PORT")

    @functools.cached_property
    def cluster_address(self) -> str | None:
        """Address of the cluster, or None if a job would start a local Ray."""
        return clusters.cluster_address(self.address, self.environment)

    @property
    def has_cluster(self) -> bool:
        return self.cluster_address is not None

    @property
    def dashboard(self) -> str:
        """Address of the cluster if it refers to a dashboard, else an empty string."""
        address = self.cluster_address or ""
        return address if is_dashboard_url(address) else ""

    @property
    def cluster(self) -> clusters.ClusterState:
        """State of the cluster. It is requested only once, even if the request fails or hangs.

        Raises:
            InputError: the cluster does not answer.
        """
        assert self.cluster_address is not None
        if not self._states:
            self._states.append(None)  # the request is sent
            self._states.append(clusters.read_cluster(self.cluster_address, self.token))
        state = self._states[-1]
        if state is None:
            raise InputError(f"{self.cluster_address}: does not answer; see above")
        return state

    @functools.cached_property
    def token(self) -> Token | None:
        """Token that a client on this machine would send."""
        return find_token(self.environment, Path.home())

    @property
    def is_outside(self) -> bool:
        """True if the paths of the recipe refer to other machines."""
        ray_address = self.environment.get("RAY_ADDRESS", "")  # Ray sets it to the GCS in a submitted job
        return bool(self.dashboard) and (not ray_address or is_dashboard_url(ray_address))

    @property
    def uri(self) -> str | None:
        """Folder to which the job would write."""
        return self.storage_uri or (self.config.run_dir if self.config else None)

    @property
    def num_cpus(self) -> int | None:
        """CPUs of the local Ray that a job would start, or None for all cores."""
        return getattr(getattr(self.config, "ray", None), "num_cpus", None)

    @property
    def store_bytes(self) -> int:
        """Size of the object store on the head, where drivers run, or without a cluster that of a local Ray."""
        try:
            heads = [node for node in self.cluster.nodes if node.is_head] if self.has_cluster else []
        except InputError:
            heads = []  # reported by another check
        if heads:
            return int(heads[0].object_store)
        megabytes = getattr(getattr(self.config, "ray", None), "object_store_mb", None)
        return machine.object_store_bytes(megabytes, machine.Memory.of().total)


class CheckSpec(NamedTuple):
    """A check, and the condition under which it applies."""

    name: str
    run: Callable[[CheckContext], Finding]
    applies: Callable[[CheckContext], object] = lambda _: True


def applicable_checks(context: CheckContext) -> list[Check]:
    """Return the checks that apply, in the order of the table."""
    return [Check(spec.name, functools.partial(spec.run, context)) for spec in CHECKS if spec.applies(context)]


def _checkout() -> Path | None:
    return packages.checkout_of(Path(distilray.__file__))


def _lock() -> Path | None:
    checkout = _checkout()
    return checkout / "requirements.lock" if checkout and (checkout / "requirements.lock").is_file() else None


def _check_lock(_: CheckContext) -> Finding:
    lock = _lock()
    assert lock is not None
    return packages.check_lock(lock.read_text(), packages.installed_version)


def _check_shadow(_: CheckContext) -> Finding:
    return packages.check_shadow(Path(distilray.__file__).parent, packages.checkout_of(Path("platform/distilray/x")))


def _check_ray(context: CheckContext) -> Finding:
    if context.has_cluster:
        return clusters.check_version(context.cluster, packages.installed_version("ray"))
    return machine.check_local_ray(context.num_cpus, os.cpu_count() or 1, machine.cpu_quota())


def _check_shared_memory(context: CheckContext) -> Finding:
    return machine.check_shared_memory(shutil.disk_usage(_SHM).total if _SHM.is_dir() else 0, context.store_bytes)


def _check_spill_disk(context: CheckContext) -> Finding:
    folder = context.environment.get("RAY_TMPDIR") or tempfile.gettempdir()
    return machine.check_disk(machine.Disk.of(Path(folder)), spills=True)


def _check_workers(context: CheckContext) -> Finding:
    need = worker_need(context.config) if context.config else None
    if context.has_cluster:
        try:
            return clusters.check_workers(need, context.cluster.nodes, context.cluster)
        except InputError:
            return warn(f"{need or 'workers'} cannot be compared with the cluster, which does not answer", "see above")
    gpus = len(machine.TorchBuild.of().gpus) if need is not None and need.gpus else 0
    this_machine = clusters.ClusterNode(float(context.num_cpus or os.cpu_count() or 1), float(gpus), 0.0, is_head=True)
    return clusters.check_workers(need, [this_machine], None)


def _check_folders(context: CheckContext) -> Finding:
    mounts = None if context.is_outside else Path("/proc/mounts").read_text()
    return _recipe_checks().check_locations(context.config, mounts)


def _check_models(context: CheckContext) -> Finding:
    offline = environment.is_offline(context.environment)
    return _recipe_checks().check_models(context.config, offline=offline, outside=context.is_outside)


def _check_run_disk(context: CheckContext) -> Finding:
    needed = _recipe_checks().run_bytes(context.config) if context.config else None
    return machine.check_disk(machine.Disk.of(path_of(context.uri or "")), needed=needed)


def _recipe_checks() -> Any:
    from distilray.operations.doctor import recipe_checks  # imports packages that may be missing

    return recipe_checks


def _is_inside(context: CheckContext) -> bool:
    return not context.is_outside


def _has_config(context: CheckContext) -> bool:
    return context.config is not None


CHECKS: tuple[CheckSpec, ...] = (
    CheckSpec("python", lambda _: packages.check_python(sys.version_info[:3])),
    CheckSpec("packages", lambda _: packages.check_packages(_checkout(), packages.installed_version)),
    CheckSpec("lock file", _check_lock, lambda _: _lock()),
    CheckSpec(
        "imports", lambda c: combine(c.import_problems.values(), "all installed native packages can be imported")
    ),
    CheckSpec("expat", lambda _: packages.check_expat(pyexpat.version_info)),
    CheckSpec("distilray", _check_shadow),
    CheckSpec("token mode", lambda c: environment.check_token_mode(c.environment, c.token, cluster=c.has_cluster)),
    CheckSpec("token file", lambda c: environment.check_token_file(c.environment, Path.home())),
    CheckSpec("jobs api", lambda c: clusters.check_access(c.dashboard, c.token), lambda c: c.dashboard),
    CheckSpec("ray", _check_ray),
    CheckSpec("cluster", lambda c: clusters.check_nodes(c.cluster), lambda c: c.has_cluster),
    CheckSpec("ports", lambda _: environment.check_ports(environment.listeners())),
    CheckSpec("memory", lambda _: machine.check_memory(machine.Memory.of()), _is_inside),
    CheckSpec("shared memory", _check_shared_memory, _is_inside),
    CheckSpec("spill disk", _check_spill_disk, _is_inside),
    CheckSpec("cache disk", lambda _: machine.check_disk(machine.Disk.of(Path("~/.cache").expanduser())), _is_inside),
    CheckSpec("gpu", lambda _: machine.check_gpus(machine.TorchBuild.of()), _is_inside),
    CheckSpec("proxies", lambda c: environment.check_proxies(c.environment)),
    CheckSpec("threads", lambda c: environment.check_threads(c.environment, os.cpu_count() or 1), _is_inside),
    CheckSpec("workers", _check_workers, _has_config),
    CheckSpec("runs", lambda c: _recipe_checks().check_runs(c.config, outside=c.is_outside), _has_config),
    CheckSpec("models", _check_models, _has_config),
    CheckSpec("folders", _check_folders, lambda c: _has_config(c) and c.has_cluster),
    CheckSpec("run disk", _check_run_disk, lambda c: c.uri and is_path(c.uri) and not c.is_outside),
    CheckSpec("storage", lambda c: _recipe_checks().check_store(c.uri, outside=c.is_outside), lambda c: c.uri),
)
