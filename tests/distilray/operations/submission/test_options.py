"""Options of `jobs.submit`, from the command line to the cluster."""

from types import SimpleNamespace

import pytest

from distilray.operations.submission import client, command
from distilray.operations.submission.cluster import DriverResources
from jobs import submit
from tests.distilray.operations.submission.scripted_cluster import ScriptedCluster, job

CORPUS = ["build_corpus", "--recipe", "jobs/recipes/build_corpus/quickstart.yaml", "run_dir=/mnt/corpus"]


@pytest.fixture
def cluster(monkeypatch):
    """The cluster that the command finds; its time passes when somebody sleeps."""
    cluster = ScriptedCluster([job("PENDING", message="no room")], [[]])
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(client, "RayCluster", lambda address: cluster)
    clock = SimpleNamespace(monotonic=cluster.clock, sleep=cluster.clock.sleep)
    monkeypatch.setattr(command, "time", clock)
    return cluster


@pytest.mark.parametrize("minutes", [2.0, 15.0])
def test_a_job_may_wait_for_its_start_for_so_many_minutes(cluster, minutes):
    options = [] if minutes == 15 else ["--pending-minutes", str(minutes)]
    assert submit.main([*CORPUS, *options]) == 1
    assert 60 * minutes <= cluster.clock.now < 60 * minutes + 10


def test_the_resources_of_the_driver_reach_the_cluster(cluster):
    resources = {"num-cpus": 3, "num-gpus": 0.5, "memory": 4e9}
    options = [text for name, value in resources.items() for text in (f"--entrypoint-{name}", str(value))]
    assert submit.main([*CORPUS, "--detach", *options]) == 0
    ((_, submission),) = cluster.sent
    assert submission.driver == DriverResources(num_cpus=3.0, num_gpus=0.5, memory_bytes=4_000_000_000)
