from dataclasses import dataclass, field

import pytest

from distilray.errors import InputError
from distilray.operations.submit.follow import Follower, FollowTimeoutError, LogPrinter, exit_code_of, stop_job
from distilray.operations.submit.job_records import ClusterError
from tests.distilray.operations.submit.scripted_cluster import DROP, GONE, SILENCE, ScriptedCluster, job

ID = "distill-0123456789ab"
RUNNING, DONE = job("RUNNING"), job("SUCCEEDED", code=0)


@dataclass
class Seen:
    printed: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def follow(self, cluster, **limits):
        follower = Follower(
            cluster, "distill-1", cluster.timing(**limits), write=self.printed.append, notify=self.messages.append
        )
        return follower.follow()

    @property
    def log(self):
        return "".join(self.printed)


@pytest.fixture
def seen():
    return Seen()


def test_a_stream_that_lives_is_printed_as_it_comes(seen):
    cluster = ScriptedCluster([RUNNING, DONE], [["one\n", "two\nth", "ree\n"]], text="one\ntwo\nthree\n")
    assert seen.follow(cluster).status == "SUCCEEDED"
    assert seen.printed == ["one\n", "two\nth", "ree\n"]


@pytest.mark.parametrize(
    "connections",
    [
        [["one\n", DROP], ["one\ntwo\n", "three\n"]],
        [["one\ntw", DROP], ["one\n", "two\n", DROP], ["one\ntwo\nthree\n"]],
        [[DROP], [DROP], ["one\n", "two\nthree\n"]],
        [["one\n"], ["one\ntwo\n"], ["one\ntwo\nthree\n"]],
    ],
    ids=["once", "inside of a line, twice", "before the first line", "closed without a word"],
)
def test_a_broken_stream_is_resumed_and_every_line_is_printed_once(seen, connections):
    looks = [RUNNING] * len(connections) + [DONE]
    seen.follow(ScriptedCluster(looks, connections, text="one\ntwo\nthree\n"))
    assert seen.log == "one\ntwo\nthree\n"


def test_the_end_of_the_log_is_fetched_when_the_stream_lost_it(seen):
    seen.follow(ScriptedCluster([RUNNING, DONE], [["one\n", DROP]], text="one\nlast words\n"))
    assert seen.log == "one\nlast words\n"


def test_the_end_of_a_job_is_noticed_behind_a_dead_connection(seen):
    cluster = ScriptedCluster([RUNNING, RUNNING, DONE], [["one\n"] + [SILENCE] * 1000], text="one\ntwo\n")
    assert seen.follow(cluster).status == "SUCCEEDED"
    assert seen.log == "one\ntwo\n"
    assert cluster.clock.now < 20


def test_a_connection_that_may_be_dead_is_replaced_less_and_less_often(seen):
    quiet = [SILENCE] * 1000
    cluster = ScriptedCluster([RUNNING] * 130 + [DONE], [["one\n", *quiet], ["one\n", *quiet]], text="one\n")
    seen.follow(cluster)
    assert seen.log == "one\n"
    assert cluster.clock.now > 500
    assert cluster.tails == 4  # after 60, 120, 240 s


def test_a_cluster_that_does_not_answer_for_a_while_is_asked_again(seen):
    cluster = ScriptedCluster([RUNNING, GONE, GONE, GONE, RUNNING, DONE], [["one\n", DROP], ["one\n"]], text="one\n")
    assert seen.follow(cluster).status == "SUCCEEDED"
    assert sum("trying again" in line for line in seen.messages) == 3


def test_a_cluster_that_never_answers_again_ends_the_following(seen):
    with pytest.raises(FollowTimeoutError, match=r"no response for 1[01] min .* http://head:8265"):
        seen.follow(ScriptedCluster([RUNNING, GONE], [[DROP]]), lost_limit_s=600)


def test_a_cluster_that_refuses_is_not_asked_again(seen):
    with pytest.raises(ClusterError, match="403"):
        seen.follow(ScriptedCluster([RUNNING, ClusterError("403")], [[DROP]]))


def test_a_job_that_its_cluster_has_forgotten_ends_the_following(seen):
    with pytest.raises(FollowTimeoutError, match="no longer knows the job"):
        seen.follow(ScriptedCluster([RUNNING, None], [[DROP]]))


def test_a_pending_job_is_reported_with_the_reason_of_ray(seen):
    waiting = job("PENDING", message="It may be waiting\nfor resources.")
    seen.follow(ScriptedCluster([waiting] * 20 + [DONE], [[]]))
    assert seen.messages == ["PENDING for 16 s: It may be waiting for resources.",
                         "PENDING for 32 s: It may be waiting for resources."]  # fmt: skip


def test_the_wait_for_a_pending_job_has_a_limit(seen):
    waiting = job("PENDING", message="waiting for GPU")
    with pytest.raises(FollowTimeoutError, match=r"still PENDING after 1 min 02 s: waiting for GPU"):
        seen.follow(ScriptedCluster([waiting], [[]]), pending_limit_s=60)


def test_a_job_that_never_ran_ends_with_its_log(seen):
    failed = job("FAILED", message="runtime env failed")
    assert seen.follow(ScriptedCluster([job("PENDING"), failed], [[]], text="set-up log\n")).status == "FAILED"
    assert seen.log == "set-up log\n"


def test_a_log_that_is_shorter_the_next_time_is_not_printed_again():
    printed = []
    once = LogPrinter(printed.append)
    once.feed("one\ntwo\n")
    once.rewind()
    assert not once.feed("one\n")
    assert once.feed("two\nthree\n")
    assert "".join(printed) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (job("SUCCEEDED", code=0), 0),
        (job("SUCCEEDED"), 0),
        (job("FAILED", code=2), 2),
        (job("FAILED", code=-9), 137),
        (job("FAILED", message="Job entrypoint command failed with exit code 2, last available logs ..."), 2),
        (job("FAILED", message="the supervisor died; its log says: exit code 7"), 1),
        (job("FAILED", code=0), 1),
        (job("FAILED"), 1),
        (job("STOPPED", code=130), 130),
        (job("STOPPED"), 130),
    ],
)
def test_the_exit_code_is_that_of_the_command(record, code):
    assert exit_code_of(record) == code


def stop(cluster):
    lines = []
    stop_job(cluster, ID, cluster.timing(), notify=lines.append)
    return lines


def test_a_running_job_is_stopped_and_waited_for():
    cluster = ScriptedCluster([job("RUNNING"), job("RUNNING"), job("STOPPED")])
    assert stop(cluster) == [f"{ID} is stopped (STOPPED)"]
    assert (cluster.stopped, cluster.killed) == ([ID], [])


def test_a_pending_job_that_starts_is_stopped_by_ray_alone():
    cluster = ScriptedCluster([job("PENDING"), job("PENDING"), job("STOPPED")])
    stop(cluster)
    assert (cluster.stopped, cluster.killed) == ([ID], [])


def test_a_job_that_stays_pending_is_killed_once():
    waiting = job("PENDING", driver_resources="1 GPU")
    cluster = ScriptedCluster([*[waiting] * 8, job("FAILED")])
    assert stop(cluster) == [f"{ID} is waiting for 1 GPU; removing it from the queue", f"{ID} is stopped (FAILED)"]
    assert (cluster.stopped, cluster.killed) == ([ID], [ID])


def test_a_job_that_has_ended_is_left_alone():
    cluster = ScriptedCluster([job("SUCCEEDED")])
    assert stop(cluster) == [f"{ID} has already ended (SUCCEEDED)"]
    assert (cluster.stopped, cluster.killed) == ([], [])


@pytest.mark.parametrize(
    ("looks", "words"),
    [([None], "no such job on http://head:8265"), ([job("RUNNING")], "still RUNNING 2 min")],
    ids=["unknown", "does not end"],
)
def test_a_job_that_cannot_be_stopped_is_an_error(looks, words):
    with pytest.raises(InputError, match=words):
        stop(ScriptedCluster(looks))
