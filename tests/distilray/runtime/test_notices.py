import threading

import pytest

from distilray.runtime.progress import NoticeFollower, post_notice, read_notices

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
