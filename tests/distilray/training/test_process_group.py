import json

import numpy as np
import pytest
import torch

from distilray.training.process_group import Workers
from tests.distilray.training import group_member
from tests.distilray.training.threaded_workers import run_together


def test_without_a_process_group_there_is_one_worker():
    workers = Workers.from_process_group()
    assert (workers.rank, workers.size) == (0, 1)
    assert workers.sum(np.array([2.5])).tolist() == [2.5]
    assert workers.broadcast("a") == "a"
    assert [workers.any(flag) for flag in (True, False)] == [True, False]


@pytest.mark.parametrize("size", [2, 3])
def test_every_worker_learns_what_the_first_says(size):
    for text in ("", "a", '{"step": 3, "läuft": "\u6b65"}'):
        assert (
            run_together(size, lambda workers, text=text: workers.broadcast(text if workers.rank == 0 else "other"))
            == [text] * size
        )


@pytest.mark.parametrize(("flags", "expected"), [([0, 0], False), ([0, 1], True), ([1, 1], True)])
def test_a_flag_of_one_worker_is_that_of_all(flags, expected):
    assert run_together(2, lambda workers: workers.any(bool(flags[workers.rank]))) == [expected] * 2


@pytest.mark.slow
def test_two_processes_train_as_one_does(bert_dir, tmp_path):
    alone = group_member.train(bert_dir, Workers.single())
    torch.multiprocessing.spawn(group_member.run, (2, bert_dir, str(tmp_path)), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [one.pop("rank") for one in found] == [0, 1]
    assert found[0] == found[1]
    assert found[0]["told"] == "the first says this"
    assert found[0]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
