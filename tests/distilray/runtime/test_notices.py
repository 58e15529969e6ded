import threading

import pytest

from distilray.runtime.progress import NoticeFollower, post_notice, read_notices


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "run")


def test_a_run_without_notices_has_none(uri):
    assert read_notices(uri) == []


def test_notices_come_back_in_the_order_of_time(uri):
    texts = [f"notice {number}" for number in range(12)]
    for text in texts:
        post_notice(uri, text)
    assert read_notices(uri) == texts


def test_a_notice_is_in_the_log_of_its_process(uri, caplog):
    post_notice(uri, "rank 1 hangs")
    assert "rank 1 hangs" in caplog.text


def test_a_follower_receives_notices_while_the_block_runs(uri):
    received = threading.Event()
    with NoticeFollower(uri, lambda text: received.set(), interval_s=0.01):
        post_notice(uri, "now")
        assert received.wait(20)


def test_notices_posted_at_the_end_are_received(uri):
    received = []
    with NoticeFollower(uri, received.append, interval_s=1000.0):
        post_notice(uri, "at the end")
    assert received == ["at the end"]


def test_notices_of_earlier_runs_are_not_repeated(uri):
    post_notice(uri, "yesterday")
    received = []
    with NoticeFollower(uri, received.append, interval_s=1000.0):
        post_notice(uri, "today")
    assert received == ["today"]


def test_each_notice_is_received_once(uri):
    received, texts = [], [f"notice {number}" for number in range(20)]
    with NoticeFollower(uri, received.append, interval_s=0.001):
        for text in texts:
            post_notice(uri, text)
    assert received == texts


def test_an_object_store_gives_back_what_was_posted(bucket):
    received = []
    with NoticeFollower(f"{bucket}/run", received.append, interval_s=1000.0):
        post_notice(f"{bucket}/run", "far away")
    assert received == read_notices(f"{bucket}/run") == ["far away"]
