"""What every test may use: a local Ray, free ports, a clean copy of the repository; and the order of the tests."""

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Set before anything imports Ray. A token of this test session alone, so that no file of the user is read or written,
# and no address, so that no test joins a cluster that happens to run on this machine.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    HF_HUB_OFFLINE="1",
)
for name in ("RAY_ADDRESS", "RAY_JOB_ID", "RAY_AUTH_TOKEN_PATH", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)


# Files whose slow tests take a minute or more, the longest first. The others come after them, so that no process is
# left with a long one at the end.
LONG = (
    "faults/test_training.py",
    "rehearsal/test_jobs.py",
    "line/test_quickstart.py",
    "faults/test_machines.py",
    "line/test_submit.py",
    "line/test_ray_up.py",
    "line/test_shell_blocks.py",
    "security/test_local_service.py",
)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would begin with the files that have the most tests


@pytest.hookimpl(tryfirst=True)  # before pytest puts together what shares a fixture with parameters
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the files that use the local Ray, so that they share it, and of those the ones that begin without it."""
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    places = {ROOT / "tests" / name: 2 + place for place, name in enumerate(LONG)}

    def place(file: Path) -> int:
        slow = [item for item in by_file[file] if item.get_closest_marker("slow")]
        if any(wants(item, "local_ray") for item in slow):
            return int(all(wants(item, "local_ray") and not wants(item, "no_ray") for item in slow))
        return places.get(file, 2 + len(LONG))

    items[:] = [item for file in sorted(by_file, key=place) for item in by_file[file]]


def wants(item: pytest.Item, fixture: str) -> bool:
    """Whether a test uses a fixture."""
    return fixture in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a free TCP port at each call, never the same twice.

    They lie above the worker ports of Ray (10002-19999) and below those that the kernel hands out by itself (32768).
    """
    ports = random.SystemRandom().sample(range(20_000, 32_000), 500)

    def take() -> int:
        while True:
            port = ports.pop()
            with socket.socket() as probe:
                try:
                    probe.bind(("", port))
                except OSError:
                    continue
            return port

    return take


@pytest.fixture(scope="session")
def kept_ray() -> Iterator[contextlib.ExitStack]:
    """Holds the local Ray that modules hand on to each other."""
    with contextlib.ExitStack() as kept:
        yield kept


@pytest.fixture(scope="module")
def no_ray(kept_ray: contextlib.ExitStack) -> None:
    """No local Ray of a module before, in which a job would run unasked."""
    kept_ray.close()


@pytest.fixture(scope="module", autouse=True)
def _ray_of_all_tests_or_none(request: pytest.FixtureRequest) -> None:
    tests = (test for test in request.session.items if test.getparent(pytest.Module) is request.node)
    if not all(wants(test, "local_ray") for test in tests):
        request.getfixturevalue("no_ray")


@pytest.fixture(scope="module")
def local_ray(kept_ray: contextlib.ExitStack) -> None:
    """A local Ray with two CPUs, with which the next module goes on: its start and its first workers take seconds."""
    import ray

    from distilray.config.base import RayConfig
    from distilray.runtime.session import ray_session

    if not ray.is_initialized():
        kept_ray.enter_context(ray_session(RayConfig(num_cpus=2)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """The files of the repository, relative to its root: what git tracks or would track."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


@pytest.fixture
def checkout(project_files: list[Path], tmp_path: Path) -> Path:
    """A copy of the repository that holds its files and nothing that was made from them."""
    copy = tmp_path / "checkout"
    for file in project_files:
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    return copy


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of an S3 server of this test."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # All servers of a process share what they hold.
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True).create_dir("data")
    yield "s3://data"
    server.stop()
