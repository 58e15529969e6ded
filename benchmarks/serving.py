"""Load test of the fill-mask service, compared to a transformers pipeline behind FastAPI and to the model alone.

    make bench serving
    PYTHONPATH=platform:. python -m benchmarks.serving [throughput] [latency] [overload] [kill] [soak]
        [--seconds N] [--work DIR] [--model DIR] [--proxy haproxy|python] [--poisson]

By default, measures throughput and latency. All parts use a model of DistilBERT's size with random weights, and
sentences of the sample with one mask each. All servers run in new processes with two threads; the service is started
with its job, as by a user, and the load comes from a separate process.
- throughput: 32 clients; alternates between the forward pass alone, the inference engine, the service in bf16 and in
  its default (fp32), and the baseline; uses the median of all rounds.
- latency: one client, alternating with direct calls of the engine.
- overload: three times the capacity, between two phases at 60%; the capacity is measured before and after, on the same
  server. With HAProxy it runs twice: requests are rejected by the replica, and by HAProxy (`shed_above`).
- kill: two replicas at half of their capacity, one of which is killed.
- soak: ten minutes at 60%, with memory, threads and open files of all processes.
Prints a table of results with their goals, and writes all figures to serving.json in the folder of --work.
"""

import argparse
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results import Result, table, write_results
from benchmarks.serving_load.generator import Plan, run_plan
from benchmarks.serving_load.in_process import run_in_process
from benchmarks.serving_load.kill_replica import read_killer, start_killer
from benchmarks.serving_load.processes import Process, busy_cores, cpu_by_kind, process_tree, trends
from benchmarks.serving_load.servers import Server, baseline_server, fill_mask_server
from benchmarks.serving_load.traffic import body, make_model, masked_sentences
from distilray.config.serving import LimitsConfig
from distilray.runtime.progress import Progress

THREADS, CLIENTS, TEXTS = 2, 32, 256
DEADLINE_S = LimitsConfig().deadline_s
NORMAL, OVERLOAD, HALF = 0.6, 3.0, 0.5
SHED_ABOVE = 64  # requests of two full batches
# Default duration of a measurement.
SECONDS = {"throughput": 4.0, "latency": 3.0, "overload": 30.0, "kill": 30.0, "soak": 600.0}
ROUNDS = {"throughput": 2, "latency": 5}
_DRY_RUN_S = 3.0  # shorter runs only show that a part works, for which one round is enough
_BEFORE_KILL_S = 8.0  # time for the killing process to start and become idle


@dataclass
class Bench:
    """Settings and results of all parts."""

    model_dir: str
    work: Path
    proxy: str
    poisson: bool
    seconds: float | None
    texts: list[str]
    progress: Progress
    results: list[Result] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bodies = [body(text) for text in self.texts]
        self._measurements = 0

    def advance(self, note: str) -> None:
        """Report that the next measurement begins."""
        self.progress.advance_to(self._measurements, note)
        self._measurements += 1

    def duration(self, part: str) -> float:
        """Return the seconds of a measurement."""
        return self.seconds or SECONDS[part]

    def rounds(self, part: str) -> int:
        """Return how often the variants alternate."""
        return 1 if self.duration(part) < _DRY_RUN_S else ROUNDS[part]

    def server(self, **changes: Any) -> AbstractContextManager[Server]:
        log = self.work / "server.log"
        return fill_mask_server(self.model_dir, proxy=self.proxy, log=log, cpus=THREADS, **changes)

    def load(self, server: Server, **plan: Any) -> dict[str, Any]:
        """Run the load generator against a server."""
        return run_plan(Plan(port=server.port, bodies=self.bodies, poisson=self.poisson, **plan))

    def closed(self, server: Server, seconds: float, *, clients: int = CLIENTS) -> dict[str, Any]:
        """Run a closed loop after a warm-up of a fifth of its duration; add the CPU time of the server's processes."""
        before = cpu_by_kind(process_tree(server.pid))
        result = self.load(server, concurrency=clients, seconds=1.2 * seconds, warm_up_s=0.2 * seconds)
        after = cpu_by_kind(process_tree(server.pid))
        cpu_ms = {kind: (after[kind] - before.get(kind, 0.0)) * 1000 / max(result["sent"], 1) for kind in after}
        result["server_cpu_ms_per_request"] = {kind: round(each, 2) for kind, each in cpu_ms.items()}
        return result

    def capacity(self, server: Server, part: str) -> float:
        """Measure the current capacity, in requests per second with 32 clients."""
        return float(self.closed(server, min(self.duration(part), 8.0))["phases"][0]["goodput"])


def throughput(bench: Bench) -> None:
    """Measure requests per second with 32 clients."""
    seconds = bench.duration("throughput")

    def model(what: str, precision: str) -> float:
        bench.advance(f"{what} in {precision}")
        result = run_in_process(
            what, bench.model_dir, bench.texts, seconds=seconds, threads=THREADS, precision=precision
        )
        return float(result["texts_per_s"])

    all_rates: dict[str, list[float]] = {}
    runs = []
    for _ in range(bench.rounds("throughput")):
        rates = {"raw bf16": model("raw", "bf16"), "raw fp32": model("raw", "fp32")}
        rates["engine, bf16"] = model("engine", "bf16")
        bench.advance("service in bf16")
        with bench.server(settings=("app.precision=bf16",)) as server:
            in_bf16 = bench.closed(server, seconds)
        bench.advance("service in float32")
        with bench.server() as server:
            ours = bench.closed(server, seconds)
        bench.advance("baseline")
        with baseline_server(bench.model_dir, log=bench.work / "baseline.log", threads=THREADS) as server:
            one_client, baseline = bench.closed(server, seconds / 2, clients=1), bench.closed(server, seconds)
        rates |= {
            name: run["phases"][0]["goodput"]
            for name, run in {
                "service": ours,
                "service, bf16": in_bf16,
                "baseline": baseline,
                "baseline, 1 client": one_client,
            }.items()
        }
        runs.append({"service": ours, "service, bf16": in_bf16, "baseline": baseline, "baseline, 1 client": one_client})
        for name, rate in rates.items():
            all_rates.setdefault(name, []).append(rate)
    medians = {name: statistics.median(each) for name, each in all_rates.items()}
    bench.details["throughput"] = {"rates": all_rates, "median": medians, "runs": runs}
    for what, other, goal in (
        ("service, bf16", "baseline", ">= 10"),
        ("service, bf16", "raw bf16", ">= 0.7"),
        ("engine, bf16", "raw bf16", ""),
        ("service", "service, bf16", ""),
        ("raw fp32", "raw bf16", ""),
        ("baseline, 1 client", "baseline", ""),
    ):
        bench.results.append(Result(f"throughput: {what}", medians[what], "req/s", goal, other, medians[other]))


def latency(bench: Bench) -> None:
    """Measure the latency that HTTP adds to a call."""
    rounds = []
    with bench.server() as server:
        bench.load(server, concurrency=1, requests=20, seconds=30)
        for _ in range(bench.rounds("latency")):
            seconds = bench.duration("latency")
            bench.advance("latency of the engine, and of the service")
            direct = run_in_process("direct", bench.model_dir, bench.texts, seconds=seconds, threads=THREADS)
            served = bench.load(server, concurrency=1, requests=direct["requests"], seconds=10 * seconds)
            rounds.append((direct["latency_ms"], served["phases"][0]["latency_ms"]))
    bench.details["latency"] = [{"direct": direct, "served": served} for direct, served in rounds]
    for percentile, goal in (("p50", "<= 4"), ("p99", "")):
        added = statistics.median(served[percentile] - direct[percentile] for direct, served in rounds)
        call = statistics.median(direct[percentile] for direct, _ in rounds)
        bench.results.append(Result(f"latency: added {percentile}", added, "ms", goal, f"a call: {call:.1f} ms"))


def overload(bench: Bench) -> None:
    """Apply three times the capacity and measure the recovery, for each component that can reject requests."""
    _overload(bench, "overload", goal="> 0.78")
    if bench.proxy == "haproxy":
        _overload(bench, "overload, shedding", goal=">= 0.95", settings=[f"shed_above={SHED_ABOVE}"])


def _overload(bench: Bench, part: str, *, goal: str, settings: Sequence[str] = ()) -> None:
    seconds = bench.duration("overload")
    bench.advance(part)
    with bench.server(settings=settings) as server:
        capacity = bench.capacity(server, "overload")
        phases = [(NORMAL * capacity, seconds / 3), (OVERLOAD * capacity, seconds), (NORMAL * capacity, seconds / 2)]
        load = bench.load(server, phases=phases)
        capacity_after = bench.capacity(server, "overload")
        cpu = {kind: round(each, 1) for kind, each in cpu_by_kind(process_tree(server.pid)).items()}
    bench.details[part] = {"capacity": capacity, "capacity_after": capacity_after, "server_cpu_s": cpu, **load}
    before, over, after = load["phases"]
    normal = before["latency_ms"]
    others = sum(
        count for phase in (over, after) for name, count in phase["outcomes"].items() if name not in {"200", "429"}
    )
    results = [
        Result(f"{part}: p99 at 60%", normal.get("p99", 0), "ms", "<= 5", "its p50", normal.get("p50", 0)),
        Result(f"{part}: not 200 at 60%", _not_ok(before), "", "<= 0"),
        Result(f"{part}: neither 200 nor 429", others, "", "<= 0", f"of {over['sent']:,} sent"),
        Result(f"{part}: wrong responses", sum(load["faults"].values()), "", "<= 0", _format_counts(load["faults"])),
        Result(f"{part}: capacity after", capacity_after, "req/s", "", "before", capacity),
        Result(f"{part}: goodput", over["goodput"], "req/s", goal, "mean capacity", (capacity + capacity_after) / 2),
        Result(f"{part}: p99 of accepted", over["latency_ms"].get("p99", 0) / 1000, "s", f"< {DEADLINE_S:g}"),
        Result(f"{part}: p50 of rejected", over["rejected_ms"].get("p50", 0), "ms"),
        Result(f"{part}: p99 of rejected", over["rejected_ms"].get("p99", 0), "ms"),
        Result(f"{part}: recovered after", _recovery_s(load, normal.get("p50", 0)), "s", "<= 5"),
    ]
    bench.results += results


def kill(bench: Bench) -> None:
    """Kill one of two replicas at half of the capacity of both."""
    bench.advance("kill")
    with bench.server(replicas=2) as server:
        capacity = bench.capacity(server, "kill")
        killer = start_killer(server, 2, at=time.time() + _BEFORE_KILL_S)
        phases = [(HALF * capacity, _BEFORE_KILL_S + bench.duration("kill"))]
        load = bench.load(server, phases=phases, trace=True)
        event = read_killer(killer)
    killed, ended = (event[name] - load["started_at"] for name in ("killed_at", "ended_at"))
    trace = load.pop("trace")
    in_flight = [row for row in trace if row[2] <= ended and row[3] > killed]
    failed = [row for row in trace if row[4] not in {"200", "429"}]
    other = [row for row in failed if row not in in_flight]
    failures = [{"sent_s": row[2] - killed, "ended_s": row[3] - killed, "outcome": row[4]} for row in failed]
    bench.details["kill"] = {"capacity": capacity, **event, "failures": failures, **load}
    bench.results += [
        Result("kill: failed, in flight", len(failed) - len(other), "", f"<= {len(in_flight)}", "in flight on both"),
        Result("kill: failed, any other", len(other), "", "<= 0", f"of {load['sent']:,} sent"),
        Result("kill: rejected (429)", load["phases"][0]["outcomes"].get("429", 0)),
        Result("kill: noticed after", event["noticed_s"], "s"),
        Result("kill: replaced after", event["replaced_s"], "s", "< 15"),
    ]


def soak(bench: Bench) -> None:
    """Run at 60% of the capacity, and measure the resources of all processes over time."""
    seconds = bench.duration("soak")
    bench.advance("soak")
    samples: list[tuple[float, list[Process]]] = []
    done = threading.Event()
    with bench.server() as server:

        def watch() -> None:
            start = time.monotonic()
            while not done.wait(max(0.5, seconds / 200)):
                samples.append((time.monotonic() - start, process_tree(server.pid)))

        rate = NORMAL * bench.capacity(server, "soak")
        samples.append((0.0, process_tree(server.pid)))
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            load = bench.load(server, phases=[(rate, seconds)])
        finally:
            done.set()
            watcher.join()
    process_trends = trends(samples, warm_up_s=min(60.0, seconds / 4))
    bench.details["soak"] = {**load, "processes": process_trends}
    named = [each for each in process_trends if each["kind"] != "other"]
    bench.results.append(Result("soak: not 200", _not_ok(load["phases"][0]), "", "<= 0", f"of {load['sent']:,} sent"))
    for each in named:
        rss, what = each["rss_mb"], f"RSS of {each['kind']}, end"
        bench.results.append(Result(f"soak: {what}", rss["end"], "MB", "<= 1.05", "after warm-up", rss["warm"]))
    for name in ("threads", "files"):
        worst = max(named, key=lambda each: each[name]["end"] - each[name]["warm"])
        change = worst[name]["end"] - worst[name]["warm"]
        bench.results.append(Result(f"soak: {name} more, worst", change, "", "<= 2", worst["kind"]))


PARTS: dict[str, Callable[[Bench], None]] = {
    "throughput": throughput,
    "latency": latency,
    "overload": overload,
    "kill": kill,
    "soak": soak,
}


def _not_ok(phase: dict[str, Any]) -> int:
    return sum(count for name, count in phase["outcomes"].items() if name != "200")


def _recovery_s(load: dict[str, Any], normal_ms: float) -> float:
    """Return the seconds after the overload until all responses are 200 and the median is below twice that before."""
    end = load["phases"][0]["seconds"] + load["phases"][1]["seconds"]
    bad = [
        row["second"] + 1 - end
        for row in load["series"]
        if row["second"] >= end and (row["other"] or (row["p50_ms"] or 0) > 2 * normal_ms)
    ]
    return max(bad, default=0.0)


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, help="default: throughput and latency")
    parser.add_argument("--seconds", type=float, help="duration of each measurement; below 3, a dry run with one round")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/serving"))
    parser.add_argument("--model", help="model folder (default: create one)")
    parser.add_argument("--proxy", choices=["haproxy", "python"], default="haproxy")
    parser.add_argument("--poisson", action="store_true", help="random instead of evenly spaced arrivals")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C, so that servers are stopped
    args.work.mkdir(parents=True, exist_ok=True)
    model_dir = str(Path(args.model or make_model(args.work / "model")).absolute())
    texts = masked_sentences(TEXTS, seed=0)
    settings = {"proxy": args.proxy, "poisson": args.poisson, "model": model_dir, "cpus": os.cpu_count()}
    busy: dict[str, float] = {}
    with Progress("serving", total=None, unit="measurements") as progress:
        bench = Bench(model_dir, args.work, args.proxy, args.poisson, args.seconds, texts, progress)
        for part in args.parts or ("throughput", "latency"):
            busy[part] = busy_cores(1.0)
            PARTS[part](bench)
            details = {**settings, "cores_of_others": busy, **bench.details}
            write_results(args.work / "serving.json", bench.results, details)
    print(f"cores used by other processes before each part: {busy}")
    print(table(bench.results), flush=True)


if __name__ == "__main__":
    main()
