import numpy as np
import pytest

from distilray.training.process_group import Workers
from tests.distilray.training.threaded_workers import run_together


def test_without_a_process_group_there_is_one_worker():
    workers = Workers.from_process_group()
    assert (workers.rank, workers.size) == (0, 1)
    assert workers.sum(np.array([2.5])).tolist() == [2.5]
    assert workers.broadcast("a") == "a"
    assert [workers.any(flag) for flag in (True, False)] == [True, False]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("text", ["", "a", '{"step": 3, "läuft": "\u6b65"}'])
def test_the_text_of_the_first_worker_is_broadcast(size, text):
    def broadcast(workers):
        return workers.broadcast(text if workers.rank == 0 else "other")

    assert run_together(size, broadcast) == [text] * size


@pytest.mark.parametrize(("flags", "expected"), [([0, 0], False), ([0, 1], True), ([1, 1], True)])
def test_a_flag_of_one_worker_is_that_of_all(flags, expected):
    assert run_together(2, lambda workers: workers.any(bool(flags[workers.rank]))) == [expected] * 2
