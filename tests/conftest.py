"""Shared fixtures (local Ray session, free ports, clean copy of the repository), and the order of the tests."""

import contextlib
import gc
import os
import random
import secrets
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]

# No test may depend on the speed of the machine, and a failure must be repeatable.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

# Set before anything imports Ray. The token belongs to this test session, so that no file of the user is read or
# written. There is no address, so that no test joins a cluster that is running on this machine.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    HF_HUB_OFFLINE="1",
)
for name in ("RAY_ADDRESS", "RAY_JOB_ID", "RAY_AUTH_TOKEN_PATH", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)

# Files whose slow tests take a minute or more, the longest first. They run before the others, so that no long test
# remains at the end.
LONG_FILES = (
    "faults/test_training.py",
    "pipeline/test_quickstart.py",
    "rehearsal/test_jobs.py",
    "pipeline/test_submit.py",
    "pipeline/test_ray_up.py",
    "pipeline/test_shell_blocks.py",
    "security/test_local_service.py",
)


WITHOUT_RAY = pytest.StashKey[set[Path]]()  # files with a test that does not use the local Ray session

# Imports create a million objects that stay, so that looking for garbage among them is a waste of time.
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find the files that do not share the local Ray session, and collect garbage among the objects of tests only."""
    session.stash[WITHOUT_RAY] = {item.path for item in session.items if not uses(item, "local_ray")}
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would start with the files that have the most tests


@pytest.hookimpl(tryfirst=True)  # before pytest groups tests that share a parametrized fixture
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that use the local Ray session first, so that they share it, starting with those that first stop it."""
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    ranks = {ROOT / "tests" / name: 2 + rank for rank, name in enumerate(LONG_FILES)}

    def rank(file: Path) -> int:
        slow = [item for item in by_file[file] if item.get_closest_marker("slow")]
        if any(uses(item, "local_ray") for item in slow):
            return int(all(uses(item, "local_ray") and not uses(item, "no_ray") for item in slow))
        return ranks.get(file, 2 + len(LONG_FILES))

    items[:] = [item for file in sorted(by_file, key=rank) for item in by_file[file]]


def uses(item: pytest.Item, fixture: str) -> bool:
    """Return True if a test uses a fixture."""
    return fixture in getattr(item, "fixturenames", ())


@pytest.fixture(autouse=True)
def wide_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the output so wide that no text of a table or plan is wrapped."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that returns a different free TCP port at each call.

    The ports are above the worker ports of Ray (10002-19999) and below the ephemeral ports of the kernel (from 32768).
    """
    ports = random.SystemRandom().sample(range(20_000, 32_000), 500)

    def next_port() -> int:
        while True:
            port = ports.pop()
            with socket.socket() as probe:
                try:
                    probe.bind(("", port))
                except OSError:
                    continue
            return port

    return next_port


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[contextlib.ExitStack]:
    """Keeps the local Ray session open between modules."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def no_ray(shared_ray: contextlib.ExitStack) -> None:
    """Stop the local Ray session of a previous module, because jobs would use it."""
    shared_ray.close()


@pytest.fixture(scope="module", autouse=True)
def _stop_ray_unless_all_tests_use_it(request: pytest.FixtureRequest) -> None:
    if request.path in request.session.stash[WITHOUT_RAY]:
        request.getfixturevalue("no_ray")


@pytest.fixture(scope="module")
def local_ray(shared_ray: contextlib.ExitStack) -> None:
    """Local Ray session with two CPUs, shared with other modules because its startup takes seconds."""
    import ray

    from distilray.config.base import RayConfig
    from distilray.runtime.session import ray_session

    if not ray.is_initialized():
        shared_ray.enter_context(ray_session(RayConfig(num_cpus=2)))


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """Files of the repository that git tracks or would track, relative to its root."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(set(output.split("\0"))) if name and (ROOT / name).is_file()]


@pytest.fixture
def checkout(project_files: list[Path], tmp_path: Path) -> Path:
    """Copy of the repository without generated files."""
    copy = tmp_path / "checkout"
    for file in project_files:
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    return copy


# Small models and shards, each written once. They import torch when a test needs them.


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tokenizer of the tiny models."""
    from tests.tiny.models import write_tokenizer

    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: str) -> str:
    """BERT with four layers and random weights."""
    from tests.tiny.models import write_teacher

    return write_teacher(tmp_path_factory.mktemp("teacher"), tokenizer_dir)


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Complete run of `build_corpus` with 40 documents."""
    from tests.tiny.corpus import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def shards_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: str) -> str:
    """Complete run of `encode_corpus` with several shards of both splits."""
    from tests.tiny.shards import write_shards

    return write_shards(tmp_path_factory.mktemp("run") / "shards", tokenizer_dir)


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """BERT with two layers that learns within seconds."""
    from tests.tiny.models import write_trainable_model

    return write_trainable_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def distilbert_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """DistilBERT with two layers that learns within seconds."""
    from tests.tiny.models import write_trainable_model

    return write_trainable_model(tmp_path_factory.mktemp("distilbert"), "distilbert")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Empty bucket on an S3 server for this test."""
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
    # All moto servers of a process share their buckets.
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True).create_dir("data")
    yield "s3://data"
    server.stop()
