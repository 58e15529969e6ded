from dataclasses import replace
from types import SimpleNamespace

import pytest

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.submit import client, command
from distilray.operations.submit.command import describe_submission, submit_and_follow
from distilray.operations.submit.job_records import ClusterError, DriverResources, Submission, UnreachableError
from distilray.operations.submit.request import SubmitRequest
from distilray.operations.submit.upload import Upload
from jobs import submit
from tests.distilray.operations.submit.scripted_cluster import GONE, ScriptedCluster, job

ID = "distill-0123456789ab"
SENT = Submission("python -m jobs.distill", "/checkout", (), {"A": "1"}, {"run_dir": "/mnt/run"})
REQUEST = SubmitRequest(ID, [JobConfig(run_dir="/mnt/run")], ["recipe.yaml"], SENT)
LARGE = replace(REQUEST, submission=replace(SENT, driver=DriverResources(num_gpus=1)))
UPLOAD = Upload({"a": 1})
ENDED, RUNNING = job("SUCCEEDED", code=0), job("RUNNING")
FAILED = job(
    "FAILED", message="Job entrypoint command failed with exit code 2, last available logs (truncated):\nb\nc", code=2
)
KILLED = job(
    "FAILED", message="Job supervisor actor died: ...\n\tactor_id: c1\nThe actor never ran - it was cancelled."
)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


WAITING = job("PENDING", job_id=ID, driver_resources="1 GPU")
FIRST = job("FAILED", job_id=ID)
TOO_LATE = job("PENDING", message="no GPU")


@pytest.mark.parametrize(
    ("looks", "known", "code", "sent", "message"),
    [
        ([RUNNING, ENDED], [], 0, [ID], f"submit: {ID} SUCCEEDED\n"),
        ([ENDED], [job("PENDING", job_id=ID)], 0, [], f"submit: {ID} is already PENDING; attaching to it"),
        ([ENDED], [job("RUNNING", job_id=ID)], 0, [], f"submit: {ID} is already RUNNING; attaching to it"),
        ([ENDED], [WAITING], 0, [], "is already PENDING (its driver waits for 1 GPU); attaching"),
        *[
            (
                [ENDED],
                [FIRST, job(status, job_id=f"{ID}-2")],
                0,
                [f"{ID}-3"],
                f"attempt 3 (the previous one, {ID}-2, is {status})",
            )
            for status in ("SUCCEEDED", "FAILED", "STOPPED")
        ],
        (
            [RUNNING, FAILED],
            [],
            2,
            [ID],
            f"{ID} FAILED: Job entrypoint command failed with exit code 2 (exit code 2)\n",
        ),
        ([KILLED], [], 1, [ID], "The actor never ran - it was cancelled. (exit code 1)\n"),
        ([TOO_LATE], [], 1, [ID], "still PENDING after 15 min 02 s: no GPU; the job was not stopped;"),
        ([RUNNING, GONE], [], 1, [ID], "no response for"),
    ],
)
def test_a_command_is_submitted_or_attached_to_and_returns_the_exit_code(capsys, looks, known, code, sent, message):
    cluster = ScriptedCluster(looks, [["hello\n"]] if RUNNING in looks else [[]], text="hello\n", known=known)
    assert submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing()) == code
    assert cluster.sent == [(job_id, SENT) for job_id in sent]
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ("" if looks == [TOO_LATE] else "hello\n")


def test_of_two_simultaneous_commands_the_slower_one_attaches(capsys):
    cluster = ScriptedCluster([ENDED], [[]])
    cluster.rivals = [job("PENDING", job_id=ID)]
    assert submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing()) == 0
    assert not cluster.sent
    assert "attaching" in capsys.readouterr().err
    cluster.rivals = [job("FAILED", job_id=f"{ID}-{number}") for number in (4, 3, 2)]
    cluster.known = []
    with pytest.raises(ClusterError, match="other processes keep submitting this command"):
        submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing())


def test_a_second_command_for_a_run_folder_in_use_is_refused():
    cluster = ScriptedCluster(known=[job("RUNNING", job_id="distill-ffff", run_dir="/mnt/run")])
    with pytest.raises(InputError, match="in use by job distill-ffff, which is RUNNING"):
        submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing())
    assert not cluster.sent


def test_a_detached_command_prints_only_the_id(capsys):
    cluster = ScriptedCluster()
    assert submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing(), detach=True) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{ID}\n"
    assert f"stop it with `python -m jobs.submit --address http://head:8265 --stop {ID}`" in printed.err


def test_ctrl_c_detaches_from_the_job(capsys, monkeypatch):
    cluster = ScriptedCluster([RUNNING], [[]])

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster.clock, "sleep", interrupt)
    assert submit_and_follow(cluster, REQUEST, UPLOAD, cluster.timing()) == 130
    output = capsys.readouterr().err
    assert f"{ID} continues on the cluster; repeat the command to attach to it again" in output
    assert f"--stop {ID}" in output
    assert not cluster.stopped


def test_a_small_cluster_and_one_of_unknown_size_are_used_with_a_warning(capsys, monkeypatch):
    def fail():
        raise UnreachableError("the state API is off")

    small, unknown = ScriptedCluster([ENDED], [[]]), ScriptedCluster([ENDED], [[]])
    monkeypatch.setattr(unknown, "machines", fail)
    for cluster, warning in (
        (small, "no machine has 1 GPU for the driver now"),
        (unknown, "cannot check whether the cluster is large enough: the state API is off"),
    ):
        assert submit_and_follow(cluster, LARGE, UPLOAD, cluster.timing()) == 0
        assert cluster.sent
        assert warning in capsys.readouterr().err


def test_the_plan_describes_the_submission():
    output = describe_submission(REQUEST, "http://head:8265", UPLOAD)
    parts = (ID, "http://head:8265", "python -m jobs.distill", "A=1", "1 files, 0.0 MB of /checkout", "on the head")
    assert not [part for part in (*parts, "nothing sent") if part not in output]
    assert "any machine with 1 GPU" in describe_submission(LARGE, "http://head:8265", UPLOAD)


CORPUS = ["build_corpus", "--recipe", "jobs/recipes/build_corpus/quickstart.yaml", "run_dir=/mnt/corpus"]


@pytest.fixture
def cluster(monkeypatch):
    """Replace the cluster and the clock of the command; time passes only during sleep."""
    cluster = ScriptedCluster([job("PENDING", message="no room")], [[]])
    monkeypatch.setattr(client, "ClusterClient", lambda address: cluster)
    clock = SimpleNamespace(monotonic=cluster.clock, sleep=cluster.clock.sleep)
    monkeypatch.setattr(command, "time", clock)
    return cluster


@pytest.mark.parametrize(("options", "minutes"), [(["--pending-minutes", "2"], 2), ([], 15)])
def test_the_time_until_the_start_of_a_job_is_limited(cluster, options, minutes):
    assert submit.main([*CORPUS, *options]) == 1
    assert 60 * minutes <= cluster.clock.now < 60 * minutes + 10


def test_the_resources_of_the_driver_reach_the_cluster(cluster):
    options = ["--entrypoint-num-cpus", "3", "--entrypoint-num-gpus", "0.5", "--entrypoint-memory", "4e9"]
    assert submit.main([*CORPUS, "--detach", *options]) == 0
    ((_, submission),) = cluster.sent
    assert submission.driver == DriverResources(num_cpus=3.0, num_gpus=0.5, memory_bytes=4_000_000_000)
