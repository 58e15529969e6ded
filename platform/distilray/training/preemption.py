"""Preemption notices from the cloud provider, received through Ray."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ray import train

from distilray.training.loop import Hook, Step

FAILURE_DETECTION_S = 60.0  # Ray needs several health checks to notice a lost machine


class PreemptionWatcher(Hook):
    """Requests a checkpoint when a machine of the run is about to be preempted.

    Polling is collective: every worker waits for the others and for an actor of Ray. It therefore happens in a thread
    while the update of a step runs, and all workers read the result after the same step.

    Args:
        every_steps: steps between two polls.
        notice: receives a notice of one line.
        get_info: returns a `PreemptionInfo` or None; by default Ray Train's function.
    """

    phase = "preemption"

    def __init__(
        self,
        *,
        every_steps: int,
        notice: Callable[[str], None],
        get_info: Callable[[], Any | None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._every_steps, self._notice, self._sleep = every_steps, notice, sleep
        self._get_info = get_info or train.get_preemption_info
        self._thread = ThreadPoolExecutor(1, "preemption")
        self._poll: Future[Any | None] | None = None
        self._known: Any | None = None

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Start a poll with the update of every `every_steps`-th step."""
        if phase == "update" and (step + 1) % self._every_steps == 0:
            self._poll = self._thread.submit(self._get_info)

    def after_step(self, step: Step) -> None:
        """Request a checkpoint after a new notice, except after the last step, which has a checkpoint anyway."""
        info = self._poll.result() if self._poll else None
        self._poll = None
        if info is None or info == self._known or step.is_last:
            return
        self._known = info
        step.checkpoint_now = True
        ranks = ", ".join(map(str, info.preempted_ranks))
        self._notice(f"the machine of rank {ranks} is being preempted: checkpoint of step {step.done:,} now")

    @contextlib.contextmanager
    def attribute_errors(self) -> Iterator[None]:
        """Delay errors of the block after a preemption notice, until Ray has noticed the loss of the machine.

        The other workers fail as soon as the machine is gone. Ray would count that as one of `max_failures`; once it
        has noticed the loss, it restarts the workers without counting it.
        """
        try:
            yield
        except Exception:
            if self._known is not None:
                self._sleep(FAILURE_DETECTION_S)
            raise
