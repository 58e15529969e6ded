import pytest

from distilray.errors import InputError
from distilray.operations.submit.follow import Follower, FollowTimeoutError, LogPrinter, exit_code_of, stop_job
from distilray.operations.submit.job_records import ClusterError
from tests.distilray.operations.submit.scripted_cluster import DROP, GONE, SILENCE, ScriptedCluster, job

ID = "distill-0123456789ab"
RUNNING, DONE = job("RUNNING"), job("SUCCEEDED", code=0)
LOG = "one\ntwo\nthree\n"


def follow(cluster, **limits):
    """Return the status at the end, the printed chunks of the log and the messages."""
    printed, messages = [], []
    timing = cluster.timing(**limits)
    record = Follower(cluster, "distill-1", timing, write=printed.append, notify=messages.append).follow()
    return record.status, printed, messages


def test_a_stream_is_printed_as_it_arrives():
    cluster = ScriptedCluster([RUNNING, DONE], [["one\n", "two\nth", "ree\n"]], text=LOG)
    assert follow(cluster) == ("SUCCEEDED", ["one\n", "two\nth", "ree\n"], [])


STREAMS = {
    "interrupted once": ([RUNNING] * 2, [["one\n", DROP], ["one\ntwo\n", "three\n"]]),
    "interrupted inside a line, twice": ([RUNNING] * 3, [["one\ntw", DROP], ["one\n", "two\n", DROP], [LOG]]),
    "interrupted before the first line": ([RUNNING] * 3, [[DROP], [DROP], ["one\n", "two\nthree\n"]]),
    "closed without an error": ([RUNNING] * 3, [["one\n"], ["one\ntwo\n"], [LOG]]),
    "end of the log lost": ([RUNNING], [["one\n", DROP]]),
    "unreachable for a while": ([RUNNING, GONE, GONE, GONE, RUNNING], [["one\n", DROP], ["one\n"]]),
    "dead connection at the end of the job": ([RUNNING] * 2, [["one\n", *[SILENCE] * 1000]]),
    "never ran": ([job("PENDING")], [[]]),
}


@pytest.mark.parametrize(("looks", "connections"), STREAMS.values(), ids=STREAMS)
def test_every_line_of_the_log_is_printed_once(looks, connections):
    cluster = ScriptedCluster([*looks, DONE], connections, text=LOG)
    status, printed, messages = follow(cluster)
    assert (status, "".join(printed)) == ("SUCCEEDED", LOG)
    assert sum("trying again" in message for message in messages) == looks.count(GONE)
    assert cluster.clock.now < 20


def test_a_silent_connection_is_replaced_less_and_less_often():
    quiet = ["one\n", *[SILENCE] * 1000]
    cluster = ScriptedCluster([RUNNING] * 130 + [DONE], [quiet, quiet], text="one\n")
    assert follow(cluster)[1] == ["one\n"]
    assert cluster.clock.now > 500
    assert cluster.tails == 4  # after 60, 120, 240 s


WAITING = job("PENDING", message="waiting for GPU", driver_resources="1 GPU")


@pytest.mark.parametrize(
    ("looks", "limits", "error", "words"),
    [
        ([RUNNING, GONE], {"lost_limit_s": 600}, FollowTimeoutError, "no response for 1[01] min .* http://head:8265"),
        ([RUNNING, ClusterError("403")], {}, ClusterError, "^403$"),
        ([RUNNING, None], {}, FollowTimeoutError, "no longer knows the job"),
        ([WAITING], {"pending_limit_s": 60}, FollowTimeoutError, "still PENDING .* 1 min 02 s: waiting for GPU"),
    ],
    ids=["unreachable", "refused", "forgotten", "pending"],
)
def test_following_ends_when_waiting_is_in_vain(looks, limits, error, words):
    with pytest.raises(error, match=words):
        follow(ScriptedCluster(looks, [[DROP]]), **limits)


@pytest.mark.parametrize(
    ("message", "reason"),
    [("It may be waiting\nfor resources.", "It may be waiting for resources."), ("", "Ray gives no reason")],
)
def test_a_pending_job_is_reported_with_the_reason_of_ray(message, reason):
    _, _, messages = follow(ScriptedCluster([job("PENDING", message=message)] * 20 + [DONE], [[]]))
    assert messages == [f"PENDING for {seconds} s: {reason}" for seconds in (16, 32)]


def test_a_log_that_is_shorter_on_the_next_connection_is_not_printed_again():
    printed = []
    once = LogPrinter(printed.append)
    once.feed("one\ntwo\n")
    once.rewind()
    assert not once.feed("one\n")
    assert once.feed("two\nthree\n")
    assert "".join(printed) == LOG


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


STOPPED, REMOVED = job("STOPPED"), f"{ID} is waiting for 1 GPU; removing it from the queue"


@pytest.mark.parametrize(
    ("looks", "messages", "stopped", "killed"),
    [
        ([RUNNING, RUNNING, STOPPED], [f"{ID} is stopped (STOPPED)"], 1, 0),
        ([WAITING, WAITING, STOPPED], [f"{ID} is stopped (STOPPED)"], 1, 0),  # its driver can start
        ([RUNNING, None], [f"{ID} is stopped"], 1, 0),
        ([*[WAITING] * 8, job("FAILED")], [REMOVED, f"{ID} is stopped (FAILED)"], 1, 1),
        ([DONE], [f"{ID} has already ended (SUCCEEDED)"], 0, 0),
    ],
)
def test_a_job_is_stopped_by_ray_and_killed_only_if_it_stays_pending(looks, messages, stopped, killed):
    cluster, lines = ScriptedCluster(looks), []
    stop_job(cluster, ID, cluster.timing(), notify=lines.append)
    assert lines == messages
    assert (cluster.stopped, cluster.killed) == ([ID] * stopped, [ID] * killed)


@pytest.mark.parametrize(
    ("looks", "words"), [([None], "no such job on http://head:8265"), ([RUNNING], "still RUNNING 2 min")]
)
def test_a_job_that_cannot_be_stopped_is_an_error(looks, words):
    cluster = ScriptedCluster(looks)
    with pytest.raises(InputError, match=words):
        stop_job(cluster, ID, cluster.timing(), notify=print)
