from dataclasses import replace
from types import SimpleNamespace

import pytest

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.submit import client, command
from distilray.operations.submit.command import describe_submission, submit_and_follow
from distilray.operations.submit.job_records import DriverResources, Submission, UnreachableError
from distilray.operations.submit.request import SubmitRequest
from distilray.operations.submit.upload import Upload
from jobs import submit
from tests.distilray.operations.submit.scripted_cluster import GONE, ScriptedCluster, job

ID = "distill-0123456789ab"
SENT = Submission("python -m jobs.distill", "/checkout", (), {"A": "1"}, {"run_dir": "/mnt/run"})
REQUEST = SubmitRequest(ID, [JobConfig(run_dir="/mnt/run")], ["recipe.yaml"], SENT)
UPLOAD = Upload({"a": 1})
ENDED = job("SUCCEEDED", code=0)


def submitted(cluster, **options):
    return submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing(), **options)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def test_an_unknown_command_is_submitted_and_followed(capsys):
    cluster = ScriptedCluster([job("RUNNING"), ENDED], [["hello\n"]], text="hello\n")
    assert submitted(cluster) == 0
    assert cluster.sent == [(ID, SENT)]
    printed = capsys.readouterr()
    assert printed.out == "hello\n"
    assert f"submit: {ID} SUCCEEDED" in printed.err


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_command_whose_job_runs_attaches_to_it(capsys, status):
    cluster = ScriptedCluster([ENDED], [[]], known=[job(status, job_id=ID)])
    assert submitted(cluster) == 0
    assert not cluster.sent
    assert f"submit: {ID} is already {status}; attaching to it" in capsys.readouterr().err


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_command_whose_job_has_ended_is_submitted_again_and_the_attempt_is_named(capsys, status):
    cluster = ScriptedCluster([ENDED], [[]], known=[job("FAILED", job_id=ID), job(status, job_id=f"{ID}-2")])
    assert submitted(cluster) == 0
    assert [name for name, _ in cluster.sent] == [f"{ID}-3"]
    assert f"{ID}-3, attempt 3 (the previous one, {ID}-2, is {status})" in capsys.readouterr().err


def test_of_two_at_the_same_moment_the_slower_one_attaches(capsys):
    cluster = ScriptedCluster([ENDED], [[]])
    cluster.rivals = [job("PENDING", job_id=ID)]
    assert submitted(cluster) == 0
    assert not cluster.sent
    assert "attaching" in capsys.readouterr().err


def test_a_second_command_for_a_run_folder_in_use_is_refused():
    cluster = ScriptedCluster(known=[job("RUNNING", job_id="distill-ffff", run_dir="/mnt/run")])
    with pytest.raises(InputError, match="in use by job distill-ffff, which is RUNNING"):
        submitted(cluster)
    assert not cluster.sent


def test_the_exit_code_is_that_of_the_job_and_its_reason_is_one_line(capsys):
    message = "Job entrypoint command failed with exit code 2, last available logs (truncated):\nmany\nlines"
    cluster = ScriptedCluster([job("RUNNING"), job("FAILED", message=message, code=2)], [["bad\n"]], text="bad\n")
    assert submitted(cluster) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f"submit: {ID} FAILED: Job entrypoint command failed with exit code 2 (exit code 2)"


def test_a_waiting_job_is_attached_to_with_the_resources_that_it_waits_for(capsys):
    cluster = ScriptedCluster([ENDED], [[]], known=[job("PENDING", job_id=ID, driver_resources="1 GPU")])
    assert submitted(cluster) == 0
    assert "is already PENDING (its driver waits for 1 GPU); attaching" in capsys.readouterr().err


def test_a_job_whose_driver_was_killed_is_reported_with_the_last_line_of_the_reason(capsys):
    message = (
        "Job supervisor actor died: ...\n\tactor_id: c1\nThe actor never ran - it was cancelled before it started."
    )
    assert submitted(ScriptedCluster([job("FAILED", message=message)], [[]])) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.endswith("The actor never ran - it was cancelled before it started. (exit code 1)")


def test_a_detached_command_prints_the_id_alone(capsys):
    assert submitted(ScriptedCluster(), detach=True) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{ID}\n"
    assert f"stop it with `python -m jobs.submit --address http://head:8265 --stop {ID}`" in printed.err


def test_ctrl_c_ends_the_following_and_not_the_job(capsys):
    cluster = ScriptedCluster([job("RUNNING")], [["one\n"]])

    def interrupt(seconds):
        raise KeyboardInterrupt

    cluster.clock.sleep = interrupt
    cluster.connections = [[]]
    assert submitted(cluster) == 130
    output = capsys.readouterr().err
    assert f"{ID} continues on the cluster; repeat the command to attach to it again" in output
    assert f"--stop {ID}" in output


def test_a_job_that_does_not_start_in_time_is_left_alone_with_a_code(capsys):
    cluster = ScriptedCluster([job("PENDING", message="no GPU")], [[]])
    assert submitted(cluster) == 1
    assert "still PENDING after 15 min 02 s: no GPU; the job was not stopped;" in capsys.readouterr().err


def test_a_cluster_that_is_lost_while_it_is_followed_is_no_success(capsys):
    assert submitted(ScriptedCluster([job("RUNNING"), GONE], [[]])) == 1
    assert "no response for" in capsys.readouterr().err


def test_a_job_that_is_too_large_for_the_cluster_is_sent_with_a_warning(capsys):
    cluster = ScriptedCluster([ENDED], [[]])
    large = replace(REQUEST, submission=replace(SENT, driver=DriverResources(num_gpus=1)))
    assert submit_and_follow(cluster, large, UPLOAD, cluster.timing()) == 0
    assert cluster.sent
    assert "no machine has 1 GPU for the driver now" in capsys.readouterr().err


def test_a_cluster_of_unknown_size_is_used_anyway(capsys, monkeypatch):
    cluster = ScriptedCluster([ENDED], [[]])

    def fail():
        raise UnreachableError("the state API is off")

    monkeypatch.setattr(cluster, "machines", fail)
    assert submitted(cluster) == 0
    assert "cannot check whether the cluster is large enough: the state API is off" in capsys.readouterr().err


def test_the_plan_names_all_that_would_be_sent():
    output = describe_submission(REQUEST, "http://head:8265", UPLOAD)
    for part in (
        ID,
        "http://head:8265",
        "python -m jobs.distill",
        "A=1",
        "1 files, 0.0 MB",
        "on the head",
        "nothing sent",
    ):
        assert part in output


CORPUS = ["build_corpus", "--recipe", "jobs/recipes/build_corpus/quickstart.yaml", "run_dir=/mnt/corpus"]


@pytest.fixture
def cluster(monkeypatch):
    """Replace the cluster and the clock of the command; time passes only during sleep."""
    cluster = ScriptedCluster([job("PENDING", message="no room")], [[]])
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(client, "ClusterClient", lambda address: cluster)
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
