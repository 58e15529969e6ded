import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from distilray.training.loop import Hook, Stop, train
from distilray.training.optimizer import Updater
from distilray.training.process_group import Workers
from tests.distilray.training.threaded_workers import run_together

ROWS = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25], [-2.0, 1.0]])


@dataclass
class MicroBatch:
    """Some rows of a step of four."""

    rows: torch.Tensor
    is_last: bool
    size: int = len(ROWS)


class SquaredOutput:
    """The mean of the squared outputs over the four rows of a step."""

    def __init__(self, module):
        self.module = module

    def __call__(self, step, batch):
        loss = self.module(batch.rows).square().sum() / len(ROWS)
        return loss, {"rows": torch.tensor(float(len(batch.rows)))}


class Recorder(Hook):
    """Hook that records its calls, and returns a `Stop` after some step."""

    phase = "recorder"

    def __init__(self, stop_after=None):
        self.phases, self.steps, self._stop_after = [], [], stop_after

    def on_phase(self, step, micro_step, phase):
        self.phases.append((step, micro_step, phase))

    def after_step(self, step):
        self.steps.append(step)
        return Stop("enough", "a message") if step.done == self._stop_after else None


def batches_of(sizes, steps, rows=ROWS):
    for _ in range(steps):
        parts = rows.split(sizes)
        yield from (MicroBatch(part, number == len(parts) - 1) for number, part in enumerate(parts))


def run(batches, *hooks, start=0, total=3, workers=None, on_nonfinite="skip"):
    """Train a linear layer; return its weight and the result."""
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 0.5)
    optimizer = torch.optim.SGD([{"params": list(module.parameters()), "peak_lr": 0.1}], lr=0.1)
    updater = Updater(module, optimizer, lambda step: 1.0, max_grad_norm=1e9, on_nonfinite=on_nonfinite)
    workers = workers or Workers.single()
    objective = SquaredOutput(workers.wrap(module, torch.device("cpu")))
    stop = train(objective, batches, updater, workers, hooks, start=start, total=total)
    return module.weight.detach(), stop


def descend(steps):
    """Plain gradient descent on the mean of the squared outputs."""
    weight = torch.full((1, 2), 0.5)
    for _ in range(steps):
        weight = weight - 0.1 * 2 * (ROWS @ weight.T * ROWS).mean(dim=0)
    return weight


@pytest.mark.parametrize("sizes", [[4], [1, 3], [2, 2], [1, 1, 1, 1]], ids=str)
def test_micro_batches_add_up_to_the_gradient_of_the_step(sizes):
    torch.testing.assert_close(run(batches_of(sizes, 3))[0], descend(3))


@pytest.mark.parametrize("size", [2, 4])
def test_workers_add_up_to_the_gradient_of_the_step(size):
    def work(workers):
        return run(batches_of([4 // size], 3, ROWS[workers.rank :: size]), workers=workers)[0]

    for weight in run_together(size, work):
        torch.testing.assert_close(weight, descend(3))


def test_hooks_are_called_for_all_phases_in_order_with_the_sums_of_the_step():
    recorder = Recorder()
    run(batches_of([1, 3], 1), recorder, start=4, total=5)
    micro_steps = [(4, number, phase) for number in (0, 1) for phase in ("data", "forward", "backward")]
    assert recorder.phases == [*micro_steps, (4, 2, "update"), (4, 2, "recorder")]
    (step,) = recorder.steps
    assert step.terms["rows"] == 4.0
    assert step.terms["loss"] == pytest.approx(step.losses.sum().item())
    assert [len(rows) for rows in step.rows] == [1, 3]
    assert step.size == 4


def test_a_micro_batch_is_released_before_the_next_one_is_used():
    alive = []

    def batches():
        earlier = []
        for batch in batches_of([1, 1, 1, 1], 2):
            alive.append(sum(reference() is not None for reference in earlier))
            earlier.append(weakref.ref(batch))
            yield batch
            del batch

    run(batches(), total=2)
    assert alive == [0] * 8


def test_the_loss_and_the_gradient_are_read_once_per_step():
    reads = []

    class CountReads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                reads.append(func)
            return func(*args, **(kwargs or {}))

    with CountReads(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append("tolist") or tensor.detach().numpy().tolist())
        run(batches_of([1, 3], 3), total=3)
    assert reads == ["tolist"] * 3


def test_a_resumed_run_trains_the_remaining_steps():
    recorder = Recorder()
    assert run(batches_of([4], 2), recorder, start=3, total=5)[1] is None
    assert [(step.done, step.is_last) for step in recorder.steps] == [(4, False), (5, True)]


def test_a_stop_ends_training_before_later_hooks():
    first, second = Recorder(stop_after=2), Recorder()
    assert run(batches_of([4], 3), first, second)[1] == Stop("enough", "a message")
    assert [len(first.steps), len(second.steps)] == [2, 1]


def test_a_hook_can_request_a_checkpoint_from_later_hooks():
    class Requester(Hook):
        def after_step(self, step):
            step.checkpoint_now = step.done == 2

    recorder = Recorder()
    run(batches_of([4], 3), Requester(), recorder)
    assert [step.checkpoint_now for step in recorder.steps] == [False, True, False]


def test_a_step_without_a_finite_gradient_is_skipped_or_fails():
    recorder = Recorder()
    weight, _ = run(batches_of([4], 1, ROWS * float("inf")), recorder, total=1)
    assert recorder.steps[0].update.is_skipped
    assert weight.tolist() == [[0.5, 0.5]]
    with pytest.raises(RuntimeError, match=r"step 1: gradient norm is nan at learning rate 0.1"):
        run(batches_of([4], 1, ROWS * float("inf")), total=1, on_nonfinite="fail")
