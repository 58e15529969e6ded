"""Preemption notices from the cloud provider, received through Ray."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray import train

from distilray.training.loop import Hook, Step

FAILURE_DETECTION_S = 60.0  # Ray needs several health checks to notice a lost machine


class PreemptionWatcher(Hook):
    """Requests a checkpoint when a machine of the run is about to be preempted.

    Args:
        every_steps: steps between two polls. Polling is collective, so all workers must poll in the same steps.
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
        self._known: Any | None = None

    def after_step(self, step: Step) -> None:
        """Poll, except after the last step, which has a checkpoint anyway."""
        notice = None if step.is_last else self.poll(step.done)
        if notice:
            step.checkpoint_now = True
            self._notice(f"{notice}: checkpoint of step {step.done:,} now")

    def poll(self, done: int) -> str | None:
        """Return a new preemption notice, or None. All workers must call this after every step."""
        info = None if done % self._every_steps else self._get_info()
        if info is None or info == self._known:
            return None
        self._known = info
        return f"the machine of rank {', '.join(map(str, info.preempted_ranks))} is being preempted"

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
