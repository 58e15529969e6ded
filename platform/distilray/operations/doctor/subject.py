"""What is examined: this machine, the cluster of the environment or the command, and a recipe if one is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distilray.errors import InputError
from distilray.operations.doctor import cluster as clusters
from distilray.operations.doctor.check import Finding
from distilray.operations.doctor.machine.environment import Orphan
from distilray.operations.ray_token import Token, find_token

if TYPE_CHECKING:
    from distilray.config.base import JobConfig


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        address: of a cluster, as the command gives it.
        config: of a recipe.
        storage_uri: a place to try in place of the recipe's run_dir.
        find_orphans: gives the HAProxy processes without their server.
        environment: of this process.
        import_problems: of installed packages, see `loading.import_problems`.
    """

    address: str | None
    config: JobConfig | None
    storage_uri: str | None
    find_orphans: Callable[[], Sequence[Orphan]]
    environment: Mapping[str, str]
    import_problems: Mapping[str, Finding] = field(default_factory=dict)
    _asked: list[clusters.Cluster | None] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.address and "@" in self.address:
            raise InputError("--address: holds a user or password; give http://HOST:PORT alone")

    @functools.cached_property
    def cluster_address(self) -> str | None:
        """Where the cluster is; None where a job would start a local Ray."""
        return clusters.cluster_address(self.address, self.environment)

    @property
    def cluster(self) -> clusters.Cluster:
        """The machines of the cluster, asked once, also when it does not answer.

        Raises:
            InputError: it does not.
        """
        assert self.cluster_address is not None
        if not self._asked:
            self._asked.append(None)  # until there is an answer
            self._asked.append(clusters.read_cluster(self.cluster_address, self.token))
        found = self._asked[-1]
        if found is None:
            raise InputError(f"{self.cluster_address}: does not answer; see above")
        return found

    @functools.cached_property
    def token(self) -> Token | None:
        """What a client on this machine would send."""
        return find_token(self.environment, Path.home())

    @property
    def outside(self) -> bool:
        """Whether the folders of the recipe are those of machines that this process is not one of."""
        by_ray = self.environment.get("RAY_ADDRESS", "")  # Ray sets it to the control store in a submitted job
        inside = by_ray and not clusters.is_url(by_ray)
        return self.cluster_address is not None and clusters.is_url(self.cluster_address) and not inside

    @property
    def num_cpus(self) -> int | None:
        """CPUs of the local Ray that a job would start; None for all cores."""
        return getattr(getattr(self.config, "ray", None), "num_cpus", None)

    @property
    def object_store_mb(self) -> int | None:
        """Object store of that Ray in MB; None for Ray's own choice."""
        return getattr(getattr(self.config, "ray", None), "object_store_mb", None)
