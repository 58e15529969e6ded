import io
import re
import threading

import pytest

from distilray.runtime.progress import NoticeFollower, Progress, format_duration, post_notice, read_notices
from tests.tiny.clock import Clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")


def shown(clock, *, done, seconds, total=1000, start=0, note="", stream=None):
    """Return the output of a `Progress` that is at `done` after some seconds."""
    stream = stream or io.StringIO()
    with Progress("distill", total=total, unit="steps", clock=clock, stream=stream) as progress:
        if start:
            progress.start_at(start)
        clock.now += seconds
        progress.advance_to(done, note)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"done": 250, "seconds": 10, "note": "loss 2.5"}, "250/1,000 steps (25%), 25.0 steps/s, ETA 30 s, loss 2.5"),
        ({"done": 6, "seconds": 60}, "6/1,000 steps (1%), 0.1 steps/s, ETA 2 h 45 min"),
        ({"done": 3, "seconds": 60}, "3/1,000 steps (0%), 3.0 steps/min, ETA 5 h 32 min"),
        ({"start": 900, "done": 910, "seconds": 5}, "910/1,000 steps (91%), 2.0 steps/s, ETA 45 s"),
        ({"start": 900, "done": 800, "seconds": 5}, "800/1,000 steps (80%)"),
        ({"total": None, "done": 2000, "seconds": 10}, "2,000 steps, 200.0 steps/s"),
        ({"done": 0, "seconds": 10}, "0/1,000 steps (0%)"),
    ],
    ids=["complete", "slow", "slower", "resumed", "lost work after a resume", "no total", "nothing done"],
)
def test_a_line_shows_count_share_rate_time_left_and_note(clock, values, line):
    assert shown(clock, **values) == f"distill: {line}\n"


def test_a_terminal_gets_a_bar_with_the_rate_and_time_left_of_this_attempt(clock):
    output = shown(clock, start=900, done=910, seconds=5, note="loss 1", stream=Terminal())
    assert "910/1,000 steps, ETA 45 s, 2.0 steps/s, loss 1" in output
    assert "distill: " not in output


def test_a_terminal_that_cannot_move_the_cursor_gets_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert shown(clock, done=250, seconds=10, stream=Terminal()).startswith("distill: 250/1,000 steps")


class Lines(io.StringIO):
    """A stream that announces its first line."""

    def __init__(self):
        super().__init__()
        self.has_line = threading.Event()

    def write(self, text):
        self.has_line.set()
        return super().write(text)


def test_lines_are_also_printed_while_no_unit_is_completed():
    stream = Lines()
    with Progress("distill", total=10, unit="steps", interval_s=0.01, stream=stream):
        assert stream.has_line.wait(20)
    assert stream.getvalue().startswith("distill: 0/10 steps (0%)")


def test_lines_are_printed_at_most_once_per_interval(clock):
    stream = io.StringIO()
    with Progress("distill", total=1000, unit="steps", interval_s=5.0, clock=clock, stream=stream) as progress:
        for _ in range(100):
            clock.now += 0.25
            progress.advance()
    assert re.findall(r"(\d+)/", stream.getvalue()) == ["20", "40", "60", "80", "100"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.6, "1 h 00 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_a_duration_has_the_unit_of_its_size(seconds, text):
    assert format_duration(seconds) == text


NEVER_S = 1000.0


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "run")


def test_notices_are_logged_and_read_in_chronological_order(uri, caplog):
    assert read_notices(uri) == []
    texts = [f"notice {number}" for number in range(12)]
    for text in texts:
        post_notice(uri, text)
    assert read_notices(uri) == texts
    assert [record.getMessage() for record in caplog.records] == texts


def test_a_follower_receives_notices_while_the_block_runs(uri):
    received = threading.Event()
    with NoticeFollower(uri, lambda text: received.set(), interval_s=0.01):
        post_notice(uri, "now")
        assert received.wait(20)


@pytest.mark.parametrize("interval_s", [0.001, NEVER_S])
def test_a_follower_receives_each_notice_of_its_run_once(uri, interval_s):
    post_notice(uri, "of an earlier run")
    received, texts = [], [f"notice {number}" for number in range(20)]
    with NoticeFollower(uri, received.append, interval_s=interval_s):
        for text in texts:
            post_notice(uri, text)
    assert received == texts


def test_notices_can_be_in_an_object_store(bucket):
    received = []
    with NoticeFollower(f"{bucket}/run", received.append, interval_s=NEVER_S):
        post_notice(f"{bucket}/run", "far away")
    assert received == read_notices(f"{bucket}/run") == ["far away"]
