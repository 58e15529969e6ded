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


def test_a_follower_is_told_a_notice_while_the_block_runs(uri):
    told = threading.Event()
    with NoticeFollower(uri, lambda text: told.set(), interval_s=0.01):
        post_notice(uri, "now")
        assert told.wait(20)


def test_what_is_posted_at_the_very_end_is_told_too(uri):
    told = []
    with NoticeFollower(uri, told.append, interval_s=1000.0):
        post_notice(uri, "at the end")
    assert told == ["at the end"]


def test_notices_of_earlier_runs_are_not_told_again(uri):
    post_notice(uri, "yesterday")
    told = []
    with NoticeFollower(uri, told.append, interval_s=1000.0):
        post_notice(uri, "today")
    assert told == ["today"]


def test_each_notice_is_told_once(uri):
    told, texts = [], [f"notice {number}" for number in range(20)]
    with NoticeFollower(uri, told.append, interval_s=0.001):
        for text in texts:
            post_notice(uri, text)
    assert told == texts


def test_an_object_store_gives_back_what_was_posted(bucket):
    told = []
    with NoticeFollower(f"{bucket}/run", told.append, interval_s=1000.0):
        post_notice(f"{bucket}/run", "far away")
    assert told == read_notices(f"{bucket}/run") == ["far away"]
