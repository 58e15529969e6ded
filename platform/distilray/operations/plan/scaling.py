"""Simulated training on some number of workers: components of a step, stragglers, preemptions, time of the run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError

_MOST_PREEMPTIONS = 5_000  # of a run
_MOST_FAILURES = 3.0  # preemptions expected between two checkpoints
PARTS = ("compute", "stragglers", "all-reduce", "update", "input", "checkpoints", "held-out scores")


@dataclass(frozen=True)
class StepWork:
    """Work of an optimizer step over all workers.

    Attributes:
        micro_batch_size: examples of one forward pass of a worker, at most.
        compute_s: of one worker that does all of it alone, undisturbed, with a device of its own.
        backward_share: of `compute_s`, the part of the backward pass.
        gradient_bytes: what an all-reduce sums.
        update_bytes: what the optimiser reads and writes, on every worker.
    """

    examples: int
    tokens: float
    micro_batch_size: int
    compute_s: float
    backward_share: float
    gradient_bytes: float
    update_bytes: float


@dataclass(frozen=True)
class Placement:
    """Machines of the workers and the links between them. Rates are bytes or tokens per second.

    Attributes:
        micro_step_floor_s: what a micro-step takes at least, until all its kernels are launched.
        memory_rate: of a device, or of all cores that a worker has.
        link_rate: between devices of a machine; network_rate: of a machine to others.
        latency_s: of one hop of the ring.
        overlap: part of an all-reduce that may run during the last backward pass.
        input_rate: tokens that a worker's feed makes ready; it runs beside the step.
        cores: of a machine, which its workers share; None where each has a GPU of its own.
        threads: of a worker.
        most_machines: further workers share the cores of these.
    """

    workers_per_machine: int
    micro_step_floor_s: float
    memory_rate: float
    link_rate: float
    network_rate: float
    latency_s: float
    overlap: float
    input_rate: float
    cores: float | None = None
    threads: int = 1
    most_machines: int | None = None

    def machines(self, workers: int) -> int:
        needed = -(-workers // self.workers_per_machine)
        return needed if self.most_machines is None else min(needed, self.most_machines)

    def crowding(self, workers: int) -> float:
        """Return the slowdown of a worker on shared cores: threads of a machine over its cores, at least 1."""
        if self.cores is None:
            return 1.0
        return max(1.0, -(-workers // self.machines(workers)) * self.threads / self.cores)


@dataclass(frozen=True)
class Rhythm:
    """Work between steps.

    Attributes:
        checkpoint_s: the pause for one; the file is written beside the steps.
        scores_s: one pass over the held-out examples by one worker.
        score_passes: in the whole run.
    """

    checkpoint_every_steps: int
    checkpoint_s: float
    scores_s: float
    score_passes: int


@dataclass(frozen=True)
class Preemption:
    """Independent preemptions of machines at random moments (a Poisson process).

    Attributes:
        per_machine_hour: rate.
        restart_s: from a preemption to the first new step.
        has_notice: the run saves before the machine goes; else it repeats the steps since its checkpoint.
    """

    per_machine_hour: float
    restart_s: float
    has_notice: bool


@dataclass(frozen=True)
class ScaledRun:
    """A run with some number of workers.

    Attributes:
        parts: mean seconds of a step by `PARTS`; what happens between steps is spread over them.
        hours: mean over the simulated runs; hours_p90: the run that nine of ten are faster than.
        efficiency: tokens per second over those of as many undisturbed workers that need not wait for each other.
    """

    workers: int
    machines: int
    parts: Mapping[str, float]
    tokens_per_s: float
    efficiency: float
    hours: float
    hours_p90: float
    preemptions: float

    @property
    def step_s(self) -> float:
        """Mean seconds of a step."""
        return sum(self.parts.values())

    @property
    def bound(self) -> str:
        """The longest component of a step."""
        return max(self.parts, key=lambda name: self.parts[name])


def scaled_runs(
    work: StepWork,
    place: Placement,
    rhythm: Rhythm,
    *,
    steps: int,
    workers: Sequence[int],
    straggler_mean: float,
    preemption: Preemption,
    simulated_steps: int,
    trials: int,
    seed: int,
) -> list[ScaledRun]:
    """Simulate a run with each number of workers; all have the same stragglers, so that they can be compared.

    Raises:
        InputError: machines go so often that the run would not end.
    """
    rng = np.random.default_rng(seed)
    delays = rng.exponential(straggler_mean, size=(min(steps, simulated_steps), max(workers)))
    found = []
    for count in workers:
        parts = step_parts(work, place, rhythm, steps=steps, workers=count, delays=delays[:, :count])
        step_s, machines = sum(parts.values()), place.machines(count)
        seconds, preemptions = run_times(
            steps * step_s,
            rhythm.checkpoint_every_steps * step_s,
            machines=machines,
            preemption=preemption,
            trials=trials,
            rng=np.random.default_rng([seed, count]),
        )
        rate = steps * work.tokens / float(seconds.mean())
        found.append(
            ScaledRun(
                workers=count,
                machines=machines,
                parts=parts,
                tokens_per_s=rate,
                efficiency=rate * work.compute_s / (count * work.tokens),
                hours=float(seconds.mean()) / 3600,
                hours_p90=float(np.quantile(seconds, 0.9)) / 3600,
                preemptions=float(preemptions.mean()),
            )
        )
    return found


def step_parts(
    work: StepWork,
    place: Placement,
    rhythm: Rhythm,
    *,
    steps: int,
    workers: int,
    delays: NDArray[np.float64],
) -> dict[str, float]:
    """Return the mean seconds of each component of a step.

    Args:
        delays: (simulated steps, workers): how much longer each worker takes, as part of its time.
    """
    micro_steps = math.ceil(work.examples / (workers * work.micro_batch_size))
    micro_s = max(work.compute_s * place.crowding(workers) / (workers * micro_steps), place.micro_step_floor_s)
    compute = micro_steps * micro_s
    exchange = all_reduce_s(work.gradient_bytes, workers, place)
    hidden = min(place.overlap * exchange, work.backward_share * micro_s)
    waited = max(0.0, work.tokens / workers / place.input_rate - compute)
    scored = rhythm.scores_s * place.crowding(workers) / workers
    return {
        "compute": compute,
        "stragglers": compute * float(delays.max(axis=1).mean()),
        "all-reduce": exchange - hidden,
        "update": work.update_bytes / place.memory_rate * place.crowding(workers),
        "input": waited,
        "checkpoints": rhythm.checkpoint_s / rhythm.checkpoint_every_steps,
        "held-out scores": rhythm.score_passes * scored / steps,
    }


def all_reduce_s(size: float, workers: int, place: Placement) -> float:
    """Return the seconds of a ring all-reduce: 2 (n - 1) / n of the bytes over the slowest hop, and 2 (n - 1) hops.

    Where the ring leaves a machine, the network is a hop of it (Patarasuk and Yuan 2009).
    """
    if workers == 1:
        return 0.0
    hops = [place.link_rate] if place.workers_per_machine > 1 else []
    if place.machines(workers) > 1:
        hops.append(place.network_rate)
    rate = min(hops)
    return 2 * (workers - 1) / workers * size / rate + 2 * (workers - 1) * place.latency_s


def run_times(
    work_s: float, interval_s: float, *, machines: int, preemption: Preemption, trials: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return seconds and number of preemptions of simulated runs, (trials,) each.

    Args:
        work_s: time of the run without preemptions.
        interval_s: time of it between two checkpoints.

    Raises:
        InputError: preemptions are so frequent that the run would not end.
    """
    seconds, counts = np.full(trials, work_s), np.zeros(trials, np.int64)
    per_second = preemption.per_machine_hour * machines / 3600
    expected, between = work_s * per_second, 0.0 if preemption.has_notice else interval_s * per_second
    if expected > _MOST_PREEMPTIONS or between > _MOST_FAILURES:
        raise InputError(
            f"disturbance.preemptions_per_machine_hour: {expected:,.0f} preemptions of a run, {between:,.1f} between "
            "two checkpoints, so that it would not end; lower it, or rhythm.checkpoint_every_steps of distill"
        )
    for trial in range(trials if per_second else 0):
        done = 0.0
        while (gap := rng.exponential(1 / per_second)) < work_s - done:
            reached = done + gap
            done = reached if preemption.has_notice else math.floor(reached / interval_s) * interval_s
            seconds[trial] += preemption.restart_s + reached - done
            counts[trial] += 1
    return seconds, counts
