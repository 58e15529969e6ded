import functools
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from distilray.config.base import RayConfig
from distilray.errors import InputError
from distilray.runtime import session


def test_the_address_of_a_dashboard_is_refused_with_the_command_that_submits(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match=r"RAY_ADDRESS=http.*jobs\.submit"), session.ray_session(RayConfig()):
        pass


@pytest.mark.parametrize(
    ("address", "text", "labels"),
    [
        ("10.0.0.1:6379", "", None),
        ("10.0.0.1:6379", "role=data, market=spot", {"role": "data", "market": "spot"}),
        ("", "role=data", None),
    ],
    ids=["no labels", "cluster", "local Ray"],
)
def test_only_a_cluster_has_labels_of_data_nodes(monkeypatch, address, text, labels):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv(session.DATA_LABELS, text)
    assert session.data_labels() == labels


@pytest.mark.parametrize("text", ["role", "role=", "=data", "role=data,"])
def test_labels_that_are_not_pairs_are_refused(monkeypatch, text):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv(session.DATA_LABELS, text)
    with pytest.raises(InputError, match="DISTILRAY_DATA_LABELS"):
        session.data_labels()


def refuse(item):
    raise InputError(f"file {item['number']}: cannot be read")


@pytest.mark.parametrize(("on_cluster", "checked"), [(True, ["/shared/run", "/shared/run"]), (False, [])])
def test_every_task_on_a_cluster_checks_that_its_node_shares_the_run_folder(monkeypatch, on_cluster, checked):
    class Dataset:
        def map_batches(self, fn, **_):
            return [fn(pa.table({"item": [number]})).to_pylist() for number in (1, 2)]

    folders = []
    monkeypatch.setattr(session, "inside_cluster", lambda: on_cluster)
    monkeypatch.setattr(session, "ensure_capacity", lambda *_, **__: None)
    monkeypatch.setattr(session, "check_visible", folders.append)
    monkeypatch.setattr(session.ray.data, "from_items", lambda *_, **__: Dataset())
    monkeypatch.setattr(session, "result_rows", lambda batches: [row["square"] for rows in batches for row in rows])
    squares = session.run_tasks([1, 2], lambda item: {"square": item**2}, job="job", run_dir="/shared/run")
    assert (list(squares), folders) == ([1, 4], checked)


@pytest.mark.parametrize(
    ("on_cluster", "tasks", "sizes"),
    [(False, 9, (1, 3, 3)), (False, 2, (1, 2, 2)), (True, 9, (1, 3, 9)), (True, 2, (1, 2, 2))],
)
def test_a_pool_has_an_actor_per_task_as_far_as_there_is_room_and_grows_with_a_cluster(
    monkeypatch, on_cluster, tasks, sizes
):
    pools = []

    class Dataset:
        def map_batches(self, *, compute, **_):
            pools.append((compute.min_size, compute.initial_size, compute.max_size))

    monkeypatch.setattr(session, "inside_cluster", lambda: on_cluster)
    monkeypatch.setattr(session, "ensure_capacity", lambda *_, **__: 3)
    monkeypatch.setattr(session.ray.data, "from_items", lambda *_, **__: Dataset())
    monkeypatch.setattr(session, "result_rows", lambda results: [])
    items = [{"number": number} for number in range(tasks)]
    assert list(session.run_tasks(items, refuse, job="job", run_dir="run", actors=True)) == []
    assert pools == [sizes]


@pytest.mark.slow
@pytest.mark.parametrize("actors", [False, True])
def test_bad_input_found_by_a_task_reaches_the_driver_unchanged(local_ray, tmp_path, actors):
    with pytest.raises(InputError, match=r"^file 7: cannot be read$"):
        list(session.run_tasks([{"number": 7}], refuse, job="job", run_dir=str(tmp_path), actors=actors))


@dataclass(frozen=True)
class LoadingTask:
    """Task that writes a file when it loads something."""

    folder: str

    @functools.cached_property
    def loaded(self):
        file = Path(self.folder, uuid.uuid4().hex)
        file.touch()
        return file.name

    def __call__(self, item):
        return {"number": item["number"], "loaded": self.loaded}


@pytest.mark.slow
def test_an_actor_keeps_what_its_task_has_loaded(local_ray, tmp_path):
    items = [{"number": number} for number in range(8)]
    task = LoadingTask(str(tmp_path))
    results = list(session.run_tasks(items, task, job="job", run_dir=str(tmp_path), actors=True))
    assert sorted(result["number"] for result in results) == list(range(8))
    loads = {file.name for file in tmp_path.iterdir()}
    assert loads == {result["loaded"] for result in results}
    assert len(loads) <= 2  # the session has two CPUs


SCRIPT = """
import os
import ray
from distilray.config.base import RayConfig
from distilray.runtime.session import ray_session

@ray.remote
def source_file():
    import distilray, jobs
    return distilray.__file__

with ray_session(RayConfig(num_cpus=2, object_store_mb=100)):
    with ray_session(RayConfig(num_cpus=1)):
        pass
    assert ray.is_initialized(), "the inner session ended the outer one"
    assert ray.cluster_resources()["CPU"] == 2
    assert 90e6 < ray.cluster_resources()["object_store_memory"] < 120e6
    assert os.path.isabs(ray.get(source_file.remote()))
assert not ray.is_initialized(), "the session did not end with its block"
assert os.environ["PYTHONPATH"] == "platform", "the session changed the import paths of children of this process"
"""


@pytest.mark.slow
def test_a_session_is_shared_ends_with_its_block_and_writes_nothing_to_the_home(root, tmp_path):
    # As for a new user: no token, no mode, and a source path relative to the root.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=root,
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": "platform"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not (tmp_path / ".ray").exists()
