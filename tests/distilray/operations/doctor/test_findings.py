"""Table of all checks that depend only on their arguments: check -> status, pattern of `message -> fix`."""

import ipaddress
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from distilray.operations.access import Token
from distilray.operations.doctor.cluster import ClusterNode, ClusterState, check_nodes, check_version, check_workers
from distilray.operations.doctor.environment import (
    Listener,
    check_ports,
    check_proxies,
    check_threads,
    check_token_mode,
)
from distilray.operations.doctor.machine import (
    Disk,
    Gpu,
    Memory,
    TorchBuild,
    check_disk,
    check_gpus,
    check_local_ray,
    check_memory,
    check_shared_memory,
)
from distilray.operations.doctor.packages import check_bounds, check_expat, check_lock, check_python, check_shadow
from distilray.operations.workers import WorkerNeed

GB = 10**9
SECRETS = ("pa55w0rd", "5ec2e7")


def disk(free: float, total: float = 1000, inodes: int | None = None) -> Disk:
    return Disk(Path("/data"), int(total * GB), int(free * GB), inodes)


MEMORY_AND_DISKS = [
    (partial(check_disk, disk(0.5)), "fail", "^/data: 0.5 GB of 1000.0 GB free -> free space"),
    (partial(check_disk, disk(1)), "warn", "1.0 GB of"),
    (partial(check_disk, disk(9)), "warn", "9.0 GB of"),
    (partial(check_disk, disk(10)), "ok", "10.0 GB of"),
    (partial(check_disk, disk(0.0005, 0.0006)), "fail", "0.5 MB of 0.6 MB free"),
    (partial(check_disk, disk(50), needed=60 * GB), "fail", "about 60.0 GB needed"),
    (partial(check_disk, disk(70), needed=60 * GB), "ok", "about 60.0 GB needed"),
    (partial(check_disk, disk(0.5), needed=GB // 10), "fail", "0.5 GB of"),
    (partial(check_disk, disk(900, inodes=999)), "fail", "only 999 more files"),
    (partial(check_disk, disk(900, inodes=1000)), "ok", ""),
    (partial(check_disk, disk(49), spills=True), "fail", "does not spill objects to a disk that is 95% full"),
    (partial(check_disk, disk(51), spills=True), "ok", ""),
    (partial(check_disk, disk(49)), "ok", ""),
    (partial(check_memory, Memory(16 * GB, 2 * GB)), "fail", "^2.0 of 16.0 GB of memory free"),
    (partial(check_memory, Memory(16 * GB, 3 * GB)), "warn", "micro_batch_size"),
    (partial(check_memory, Memory(16 * GB, 7 * GB)), "ok", ""),
    (partial(check_shared_memory, 0, GB), "fail", "0 MB, the object store needs 1,000 MB.*--shm-size=2g"),
    (partial(check_shared_memory, 64 << 20, 1 << 20), "fail", "64 MB is the default in containers"),
    (partial(check_shared_memory, 2 * GB, 4 * GB), "warn", "slower file on disk.*--shm-size=5g"),
    (partial(check_shared_memory, 4 * GB, 4 * GB), "ok", "4,000 MB"),
    (partial(check_local_ray, None, 8, None), "ok", "a local Ray with 8 CPUs ->"),
    (partial(check_local_ray, 2, 8, None), "ok", "with 2 CPUs ->"),
    (partial(check_local_ray, 1, 8, None), "ok", "with 1 CPU ->"),
    (partial(check_local_ray, 2, 64, 2.0), "ok", "with 2 CPUs ->"),
    (partial(check_local_ray, 2, 64, 1.5), "ok", "with 2 CPUs ->"),
    (partial(check_local_ray, None, 64, 2.0), "warn", "may use only 2 -> ray.num_cpus=2$"),
    (partial(check_local_ray, None, 64, 0.25), "warn", "may use only 0.25 -> ray.num_cpus=1$"),
]

H100 = Gpu("NVIDIA H100", 80 * GB, (9, 0))
V100 = Gpu("Tesla V100", 16 * GB, (7, 0))
P100 = Gpu("Tesla P100", 16 * GB, (6, 0))
L4 = Gpu("NVIDIA L4", 24 * GB, (8, 9))
KERNELS = ("sm_75", "sm_80", "sm_90", "compute_90")


def torch_with(*gpus: Gpu, kernels: tuple[str, ...] = KERNELS) -> TorchBuild:
    return TorchBuild("2.13", "12.8", "570.1", gpus, kernels)


GPUS = [
    (partial(check_gpus, TorchBuild("2.13", None, None)), "ok", "torch 2.13, no GPU"),
    (partial(check_gpus, TorchBuild("2.13", "12.8", None)), "ok", "no GPU"),
    (
        partial(check_gpus, TorchBuild("2.13+cpu", None, "570.1")),
        "fail",
        "570.1, .*a CPU build.*CUDA build of the same",
    ),
    (partial(check_gpus, torch_with()), "fail", "torch 2.13 for CUDA 12.8 sees no GPU.*--gpus all"),
    (partial(check_gpus, torch_with(H100, H100)), "ok", r": NVIDIA H100 \(80 GB, bf16\), NVIDIA H100 \(80 GB, bf16\)"),
    (partial(check_gpus, torch_with(H100, V100, kernels=("sm_70", *KERNELS))), "ok", r"Tesla V100 \(16 GB, fp16\)"),
    (partial(check_gpus, torch_with(P100, kernels=("sm_60",))), "warn", "^Tesla P100: no tensor cores"),
    (partial(check_gpus, torch_with(V100)), "fail", r"Tesla V100 \(sm_70\): torch 2.13 has no kernels"),
    (partial(check_gpus, torch_with(L4)), "ok", ""),  # kernels of a lower minor version run on it
    (partial(check_gpus, torch_with(L4, kernels=("sm_90",))), "fail", "sm_89"),
]

LOCK = """# pinned
torch==2.13.0
ray[serve]==2.60.0 ; sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.5.5 ; python_version >= '3.0' \\
    --hash=sha256:cc
numpy==1.0.0 ; python_version < '3.0' \\
    --hash=sha256:dd
"""
INSTALLED = {"torch": "2.13.0+cpu", "ray": "2.60.0", "numpy": "2.5.5"}
NEEDED = ["ray[data,serve]>=2.60,<3", "torch>=2.11", "scipy>=1.16"]
OLD_NUMPY = {**INSTALLED, "numpy": "2.4.0"}
MANY = "".join(f"p{number}==2\n" for number in range(20))
PACKAGES = [
    (partial(check_python, (3, 10, 9)), "fail", "Python 3.10.9, but 3.11 or newer.*make PYTHON="),
    (partial(check_python, (3, 11, 0)), "ok", "Python 3.11.0"),
    (partial(check_python, (4, 0, 0)), "ok", ""),
    (partial(check_expat, (2, 4, 0)), "fail", "expat 2.4.0.*2.4.1 or newer"),
    (partial(check_expat, (2, 4, 1)), "ok", ""),
    (partial(check_expat, (2, 5, 0)), "ok", ""),
    (
        partial(check_bounds, NEEDED[:2], {"ray": "2.59.1"}.get),
        "fail",
        "^ray 2.59.1, but <3,>=2.60 is req.*'ray<3,>=2.60'",
    ),
    (partial(check_bounds, NEEDED, INSTALLED.get), "fail", "^scipy is not installed -> pip install 'scipy>=1.16'$"),
    (partial(check_bounds, NEEDED, {**INSTALLED, "scipy": "1.18"}.get), "ok", "3 packages"),
    (partial(check_bounds, ["torch>=2.11"], {"torch": "2.12.0rc1"}.get), "ok", ""),
    (partial(check_lock, LOCK, INSTALLED.get), "ok", "3 packages" if sys.platform == "linux" else ""),
    (partial(check_lock, LOCK, {"ray": "2.60.0"}.get), "ok", ""),  # missing packages are reported by `packages`
    (partial(check_lock, LOCK, OLD_NUMPY.get), "warn", r": numpy 2.4.0 \(tested: 2.5.5\) -> pip install numpy==2.5.5 "),
    (partial(check_lock, MANY, lambda _: "1"), "warn", r": p0 1 \(tested: 2\), .* and 14 more -> make setup$"),
    (partial(check_shadow, Path("/lib/distilray"), Path("/x")), "fail", "imported from /lib.*pip uninstall distilray"),
    (partial(check_shadow, Path("/x/platform/distilray"), Path("/x")), "ok", ""),
    (partial(check_shadow, Path("/lib/distilray"), None), "ok", ""),
]


def at(host: str, port: int) -> Listener:
    return Listener(ipaddress.ip_address(host), port)


TOKEN = Token("5ec2e7" * 10, "RAY_AUTH_TOKEN")
PROXY = "http://me:pa55w0rd@proxy:3128"
DISABLED, TOKEN_MODE = {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token"}
OPEN = [at("0.0.0.0", 8265), at("0.0.0.0", 8000)]
ENVIRONMENT = [
    (
        partial(check_ports, OPEN),
        "fail",
        r"^8265 \(dashboard, runs any code\) open .* at 0.0.0.0; 8000 .*=127.0.0.1, and use",
    ),
    *[
        (partial(check_ports, [at("::", port)]), "warn", rf"^{port} \(.* at :: -> ")
        for port in (6379, 10001, 52365, 8000, 9101, 8404, 8500, 30000, 31000)
    ],
    (partial(check_ports, []), "ok", ""),
    (partial(check_ports, [at("127.0.0.1", 8265), at("0.0.0.0", 22), at("0.0.0.0", 31001)]), "ok", ""),
    (partial(check_token_mode, {}, None, cluster=False), "ok", "not set; a local Ray"),
    (partial(check_token_mode, {}, TOKEN, cluster=True), "warn", "may run without auth.*export RAY_AUTH_MODE=token"),
    (partial(check_token_mode, TOKEN_MODE, TOKEN, cluster=True), "ok", "token from RAY_AUTH_TOKEN"),
    (partial(check_token_mode, TOKEN_MODE, None, cluster=True), "fail", "there is no token.*generate"),
    (partial(check_token_mode, TOKEN_MODE, None, cluster=False), "ok", "RAY_AUTH_MODE token"),
    (partial(check_token_mode, DISABLED, TOKEN, cluster=True), "fail", "can run code.*export RAY_AUTH_MODE=token"),
    (partial(check_token_mode, DISABLED, None, cluster=False), "warn", "can run code"),
    (
        partial(check_token_mode, {"RAY_AUTH_MODE": "tokens"}, TOKEN, cluster=True),
        "fail",
        "=tokens is none of token, dis",
    ),
    (partial(check_proxies, {}), "ok", "no HTTP proxy"),
    (partial(check_proxies, {"http_proxy": PROXY}), "warn", "http_proxy set.*export no_proxy=127.0.0.1,localhost"),
    (partial(check_proxies, {"HTTPS_PROXY": PROXY, "NO_PROXY": "localhost"}), "warn", "https_proxy"),
    (partial(check_proxies, {"HTTPS_PROXY": PROXY, "NO_PROXY": "localhost, 127.0.0.1"}), "ok", "bypassed"),
    (partial(check_proxies, {"all_proxy": PROXY, "no_proxy": "*"}), "ok", "bypassed"),
    (partial(check_threads, {}, 8), "ok", ""),
    (partial(check_threads, {"OMP_NUM_THREADS": "1"}, 8), "warn", "=1 applies.* 8 CPUs .*-> unset OMP_NUM_THREADS$"),
    # Ray sets the threads in the driver of a submitted job.
    (partial(check_threads, {"OMP_NUM_THREADS": "1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, 8), "ok", ""),
]

HEAD = ClusterNode(0, 0, 2e9, is_head=True)
WORKING_HEAD = ClusterNode(4, 0, 1e9, is_head=True)
GROWING_HEAD = ClusterNode(4, 0, 1e9, is_head=True, group="head")
GPU8, GPU4 = (ClusterNode(96, gpus, 1e11, is_head=False) for gpus in (8, 4))
CPU = ClusterNode(32, 0, 1e9, is_head=False)
CARD = WorkerNeed(8, 4, 1, 8, "scaling.num_workers")


def state(*nodes: ClusterNode) -> ClusterState:
    return ClusterState("http://h:8265", "2.60.0", nodes)


def workers(need: WorkerNeed | None, *nodes: ClusterNode, grows: bool = False) -> partial:
    """Return the check of workers on a cluster with these nodes and a head."""
    cluster = state(ClusterNode(0, 0, 1e9, is_head=True, group="head" if grows else ""), *nodes)
    return partial(check_workers, need, cluster.nodes, cluster)


def local_workers(need: WorkerNeed, cpus: int) -> partial:
    return partial(check_workers, need, [ClusterNode(cpus, 0, 0, is_head=True)], None)


CLUSTER = [
    (partial(check_version, state(HEAD), "2.60.0"), "ok", "Ray 2.60.0 on the cluster and here"),
    (partial(check_version, state(HEAD), "2.59.0"), "fail", "2.60.0 on the cluster, 2.59.0 here.*ray==2.60.0"),
    (partial(check_version, state(HEAD), None), "fail", "none here"),
    (partial(check_nodes, state()), "fail", "no node is alive"),
    (partial(check_nodes, state(HEAD, GPU8, GPU8)), "ok", "^3 nodes: 192 CPU, 16 GPU, object store 202.0 GB ->"),
    (partial(check_nodes, state(WORKING_HEAD)), "ok", "^1 node: 4 CPU, 0 GPU"),
    (partial(check_nodes, state(WORKING_HEAD, GPU8)), "warn", "its head offers 4 CPU.*--num-cpus=0"),
    (partial(check_nodes, state(GROWING_HEAD)), "warn", "object store 1.0 GB, an autoscaler; its head"),
    (workers(None, CPU), "ok", "one process"),
    (workers(CARD, GPU8), "ok", "8 x 4 CPU, 1 GPU requested, http://h:8265 has room for 8"),
    (workers(CARD, GPU4, GPU4), "ok", "room for 8"),
    (workers(CARD, GPU4), "fail", "8 x 4 CPU, 1 GPU requested, .* room for 4, with 4 GPU.*scaling.num_workers=4"),
    (workers(CARD, GPU4, grows=True), "warn", "the autoscaler has to add machines"),
    (workers(CARD, grows=True), "warn", "room for 0 now"),
    (workers(WorkerNeed(8, 4, 1, 2, "scaling.num_workers"), GPU4), "warn", "starts with fewer.*scaling.num_workers=4"),
    # Too few CPUs for the workers of the GPUs.
    (workers(CARD, ClusterNode(4, 8, 1e9, is_head=False)), "warn", "room for 1; the job would wait"),
    (workers(WorkerNeed(40, 1, 0, 40, "scaling.num_workers"), CPU), "warn", "room for 32; the job would wait"),
    (workers(WorkerNeed(1, 1, 1, 1, "trial.gpus"), CPU), "fail", "with 0 GPU in total.*set trial.gpus=0"),
    (local_workers(WorkerNeed(3, 1, 0, 3, "scaling.num_workers"), 2), "fail", "this machine has room for 2.*workers=2"),
    (local_workers(WorkerNeed(1, 4, 0, 1, "x"), 2), "fail", "smaller workers"),
    (local_workers(CARD, 64), "fail", "with 0 GPU.*scaling.use_gpu=false"),
    (local_workers(WorkerNeed(2, 1, 0, 2, "x"), 2), "ok", ""),
]

TABLE = [*MEMORY_AND_DISKS, *GPUS, *PACKAGES, *ENVIRONMENT, *CLUSTER]


@pytest.mark.parametrize(
    ("check", "status", "pattern"),
    [pytest.param(*row, id=f"{row[0].func.__name__}: {row[1]} {row[2]}") for row in TABLE],
)
def test_a_check_reports_status_message_and_fix_without_secrets(check: partial, status: str, pattern: str) -> None:
    finding = check()
    text = f"{finding.message} -> {finding.fix}"
    assert (finding.status, bool(finding.fix)) == (status, status != "ok"), text
    assert re.search(pattern, text)
    assert not [secret for secret in SECRETS if secret in text]
