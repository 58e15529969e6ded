"""The table of checks: which are made of a subject, in the order in which they are shown."""

from __future__ import annotations

import functools
import os
import platform
import pyexpat
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import distilray
from distilray.config.paths import is_path, path_of
from distilray.errors import InputError
from distilray.operations.doctor import cluster as clusters
from distilray.operations.doctor import versions
from distilray.operations.doctor.access import dashboard, tokens
from distilray.operations.doctor.check import Finding, Row, together, warn
from distilray.operations.doctor.machine import environment, processor, resources, sockets
from distilray.operations.doctor.recipe import needs
from distilray.operations.doctor.subject import Subject

if TYPE_CHECKING:
    from distilray.config.base import JobConfig

_CACHE = "~/.cache"
_SAVED_SHARE = 3  # of the weights of a model: a checkpoint holds them and two moments


def rows(subject: Subject) -> list[Row]:
    """The checks that can be made of the subject, in the order in which they are shown."""
    made = [*_version_rows(subject), *_cluster_rows(subject), *_machine_rows(subject), *_environment_rows(subject)]
    return made + (_recipe_rows(subject, subject.config) if subject.config else []) + _store_rows(subject)


def _version_rows(subject: Subject) -> list[Row]:
    package = Path(distilray.__file__).parent
    checkout, here = versions.checkout_of(package / "errors.py"), versions.checkout_of(Path("platform/distilray/x"))
    lock = None if checkout is None else checkout / "requirements.lock"
    found = [
        Row("python", lambda: versions.check_python(sys.version_info[:3])),
        Row("packages", lambda: versions.check_packages(checkout, versions.installed_version)),
        Row(
            "imports",
            lambda: together(subject.import_problems.values(), "every installed package of native code loads"),
        ),
        Row("expat", lambda: versions.check_expat(pyexpat.version_info)),
        Row("distilray", lambda: versions.check_shadow(package, here, versions.wheel_folder())),
    ]
    if lock is not None and lock.is_file():
        found.insert(2, Row("lock file", lambda: versions.check_lock(lock.read_text(), versions.installed_version)))
    return found


def _cluster_rows(subject: Subject) -> list[Row]:
    address, token, given = subject.cluster_address, subject.token, subject.environment
    found = [
        Row("token mode", lambda: tokens.check_mode(given, token, cluster=address is not None)),
        Row("token file", lambda: tokens.check_file(given, Path.home())),
    ]
    if address is None:
        local = functools.partial(resources.check_local_ray, subject.num_cpus, os.cpu_count() or 1)
        return [*found, Row("ray", lambda: local(resources.cpu_quota()))]
    if clusters.is_url(address):
        found.append(Row("jobs api", lambda: dashboard.check_access(address, token)))
    return [
        *found,
        Row("ray", lambda: clusters.check_version(subject.cluster, versions.installed_version("ray"))),
        Row("cluster", lambda: clusters.check_nodes(subject.cluster)),
    ]


def _machine_rows(subject: Subject) -> list[Row]:
    ports = Row("ports", lambda: sockets.check_ports(sockets.listeners()))
    if subject.outside:
        return [ports]  # the work is done elsewhere
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    spill = subject.environment.get("RAY_TMPDIR") or tempfile.gettempdir()

    def shared_memory() -> Finding:
        shm = Path("/dev/shm")  # noqa: S108 - where Ray's object store is
        return resources.check_shared_memory(shutil.disk_usage(shm).total if shm.is_dir() else 0, _store_bytes(subject))

    return [
        ports,
        Row("memory", lambda: resources.check_memory(resources.Memory.of())),
        Row("shared memory", shared_memory),
        Row("open files", lambda: resources.check_files(*files, cluster=subject.cluster_address is not None)),
        Row("spill disk", lambda: resources.check_disk(resources.Disk.of(Path(spill)), spills=True)),
        Row("cache disk", lambda: resources.check_disk(resources.Disk.of(Path(_CACHE).expanduser()))),
        Row("cpu", lambda: processor.check_processor(Path("/proc/cpuinfo").read_text(), platform.machine())),
        Row("gpu", lambda: processor.check_devices(processor.Torch.of())),
    ]


def _environment_rows(subject: Subject) -> list[Row]:
    given, source_root = subject.environment, Path(distilray.__file__).parents[1]
    found = [
        Row("PYTHONPATH", lambda: environment.check_path(given, Path.cwd(), source_root)),
        Row("hub", lambda: environment.check_hub(given)),
        Row("proxies", lambda: environment.check_proxies(given)),
    ]
    if subject.outside:
        return found
    return [
        *found,
        Row("threads", lambda: environment.check_threads(given, os.cpu_count() or 1)),
        Row("orphans", lambda: environment.check_orphans(subject.find_orphans())),
    ]


def _store_bytes(subject: Subject) -> int:
    """Of the object store of this machine: of the head, where drivers run, or of a local Ray."""
    try:
        heads = [node for node in subject.cluster.nodes if node.is_head] if subject.cluster_address else []
    except InputError:
        heads = []  # told by a check of its own
    if heads:
        return int(heads[0].object_store)
    return resources.object_store_bytes(subject.object_store_mb, resources.Memory.of().total)


def _recipe_rows(subject: Subject, config: JobConfig) -> list[Row]:
    def check_runs() -> Finding:
        from distilray.operations.doctor.recipe import inputs

        return inputs.check_runs(inputs.locations_of(config, "run"), outside=subject.outside)

    def check_models() -> Finding:
        from distilray.operations.doctor.recipe import inputs

        offline = environment.offline_by(subject.environment) is not None
        return inputs.check_models(
            inputs.locations_of(config, "model"),
            inputs.locations_of(config, "tokenizer"),
            offline=offline,
            outside=subject.outside,
        )

    def check_folders() -> Finding:
        from distilray.operations.doctor.recipe import inputs

        return inputs.check_folders(config, None if subject.outside else Path("/proc/mounts").read_text())

    made = [
        Row("workers", lambda: _check_workers(subject, needs.need_of(config))),
        Row("runs", check_runs),
        Row("models", check_models),
    ]
    if subject.cluster_address is not None:
        made.append(Row("folders", check_folders))
    return made


def _check_workers(subject: Subject, need: needs.Need | None) -> Finding:
    if subject.cluster_address is not None:
        try:
            return needs.check_workers(need, subject.cluster.nodes, subject.cluster)
        except InputError:
            return warn(f"{need or 'workers'} not compared with the cluster, which does not answer", "see above")
    gpus = 0
    if need is not None and need.gpus:
        gpus = len(processor.Torch.of().devices)
    here = clusters.Node(float(subject.num_cpus or os.cpu_count() or 1), float(gpus), 0.0, is_head=True)
    return needs.check_workers(need, (here,), None)


def run_bytes(config: JobConfig) -> int | None:
    """What a training leaves in its run_dir, at most: the model and its checkpoints; None for other jobs."""
    from distilray.config.distillation import TrainingConfig
    from distilray.operations.doctor.recipe.inputs import model_bytes

    source = getattr(config, "teacher_dir", None) or getattr(config, "encoder_dir", None)
    if not isinstance(config, TrainingConfig) or source is None:
        return None
    # One checkpoint more than are kept: the best. The weights of a student are fewer than its teacher's.
    checkpoints = _SAVED_SHARE * (config.rhythm.keep_checkpoints + 1)
    size = model_bytes(source)
    return None if size is None else size * (1 + checkpoints)


def _store_rows(subject: Subject) -> list[Row]:
    uri = subject.storage_uri or (subject.config.run_dir if subject.config else None)
    if uri is None:
        return []

    def check_store() -> Finding:
        from distilray.operations.doctor.recipe import inputs, store
        from distilray.runtime import storage

        if subject.outside and is_path(uri) and not storage.exists(uri):
            return warn(f"{uri} is not on this machine and cannot be checked from here", inputs.AS_A_JOB)
        return store.check_store(uri)

    def check_disk() -> Finding:
        needed = run_bytes(subject.config) if subject.config else None
        return resources.check_disk(resources.Disk.of(path_of(uri)), needed=needed)

    disk = [Row("run disk", check_disk)] if is_path(uri) and not subject.outside else []
    return [*disk, Row("storage", check_store)]
