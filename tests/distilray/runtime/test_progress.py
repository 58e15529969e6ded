import io
import re

import pytest

from distilray.runtime.progress import Progress, format_duration


class Clock:
    """A clock that only moves when it is advanced."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def progress_of(clock: Clock, stream: io.StringIO, total: int | None = 1000) -> Progress:
    return Progress("distill", total=total, unit="steps", interval_s=5.0, clock=clock, stream=stream)


def test_a_line_shows_count_share_rate_time_left_and_note(clock: Clock, stream: io.StringIO) -> None:
    with progress_of(clock, stream) as progress:
        clock.now += 10
        progress.advance_to(250, "loss 2.5")
    assert stream.getvalue() == "distill: 250/1,000 steps (25%), 25.0 steps/s, ETA 30 s, loss 2.5\n"


def test_lines_come_no_more_often_than_the_interval(clock: Clock, stream: io.StringIO) -> None:
    with progress_of(clock, stream) as progress:
        for _ in range(100):
            clock.now += 0.25
            progress.advance()
    assert len(stream.getvalue().splitlines()) == 5


def test_what_an_earlier_run_had_finished_does_not_count_in_the_rate(clock: Clock, stream: io.StringIO) -> None:
    progress = progress_of(clock, stream)
    progress.start_at(500)
    clock.now += 10
    progress.advance(50)
    assert "550/1,000 steps (55%), 5.0 steps/s, ETA 1 min 30 s" in stream.getvalue()


def test_rate_and_time_left_after_a_resume_are_those_of_this_run(clock: Clock, stream: io.StringIO) -> None:
    progress = progress_of(clock, stream)
    progress.start_at(900)
    clock.now += 5
    progress.advance(10)
    assert stream.getvalue() == "distill: 910/1,000 steps (91%), 2.0 steps/s, ETA 45 s\n"


def test_work_that_is_lost_after_a_resume_leaves_no_negative_rate(clock: Clock, stream: io.StringIO) -> None:
    progress = progress_of(clock, stream)
    progress.start_at(900)
    clock.now += 5
    progress.advance_to(800)
    assert stream.getvalue() == "distill: 800/1,000 steps (80%), 0.0 steps/min\n"


def test_a_bar_after_a_resume_has_the_rate_and_time_left_of_this_run(clock: Clock) -> None:
    terminal = Terminal()
    with progress_of(clock, terminal) as progress:
        progress.start_at(900)
        clock.now += 5
        progress.advance(10)
    assert re.search(r"910/1000.*2\.0 steps/s, ETA 45 s", terminal.getvalue())


def test_work_without_a_known_end_has_no_share_and_no_time_left(clock: Clock, stream: io.StringIO) -> None:
    progress = progress_of(clock, stream, total=None)
    clock.now += 10
    progress.advance(20)
    assert stream.getvalue() == "distill: 20, 2.0 steps/s\n"


def test_nothing_done_yet_has_no_time_left(clock: Clock, stream: io.StringIO) -> None:
    clock.now += 10
    assert "ETA" not in progress_of(clock, stream).line(clock.now)


def test_a_terminal_gets_a_bar_in_place_of_lines(clock: Clock) -> None:
    terminal = Terminal()
    with progress_of(clock, terminal) as progress:
        clock.now += 10
        progress.advance(500, "loss 1")
    assert "distill: " not in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.6, "1 h 00 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_a_duration_reads_in_its_own_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_slow_rate_is_shown_per_minute(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_of(clock, stream) as progress:
        clock.now += 60
        progress.advance(3)
    assert "3.0 steps/min" in stream.getvalue()
