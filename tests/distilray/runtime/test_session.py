import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilray.config.base import RayConfig
from distilray.errors import InputError
from distilray.runtime import session


def test_the_address_of_a_dashboard_is_refused_with_the_way_to_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match=r"RAY_ADDRESS=http.*jobs\.submit"), session.ray_session(RayConfig()):
        pass


def test_the_labels_of_data_machines_are_those_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert session.data_labels() is None
    monkeypatch.setenv(session.DATA_LABELS, "role=data, market=spot")
    assert session.data_labels() == {"role": "data", "market": "spot"}


def test_a_local_ray_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(session.DATA_LABELS, "role=data")
    assert session.data_labels() is None


@pytest.mark.parametrize("given", ["role", "role=", "=data", "role=data,"])
def test_labels_that_are_no_pairs_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv(session.DATA_LABELS, given)
    with pytest.raises(InputError, match="DISTILRAY_DATA_LABELS"):
        session.data_labels()


SCRIPT = """
import os
import ray
from distilray.config.base import RayConfig
from distilray.runtime.session import ray_session

@ray.remote
def where():
    import distilray, jobs
    return distilray.__file__

with ray_session(RayConfig(num_cpus=2, object_store_mb=100)):
    with ray_session(RayConfig(num_cpus=1)):
        pass
    assert ray.is_initialized(), "the inner session ended the outer one"
    assert ray.cluster_resources()["CPU"] == 2
    assert 90e6 < ray.cluster_resources()["object_store_memory"] < 120e6
    assert os.path.isabs(ray.get(where.remote()))
assert not ray.is_initialized(), "the session outlives its block"
assert os.environ["PYTHONPATH"] == "platform", "the session has changed what this process's own children find"
"""


def refuse(item: dict[str, object]) -> dict[str, object]:
    raise InputError(f"file {item['number']}: cannot be read")


@pytest.mark.slow
def test_bad_input_that_a_task_finds_reaches_the_driver_as_it_is(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        list(session.run_tasks([{"number": 7}], refuse, job="job", run_dir=str(tmp_path)))
    assert str(raised.value) == "file 7: cannot be read"


@pytest.mark.slow
def test_a_session_is_shared_ends_with_its_block_and_leaves_the_home_alone(root: Path, tmp_path: Path) -> None:
    # A user who has set nothing: no token, no mode, and a source path relative to the root.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=root,
        env={**kept, "HOME": str(tmp_path), "PYTHONPATH": "platform"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / ".ray").exists()
