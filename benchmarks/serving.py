"""The fill-mask service under load, against the pipeline of transformers behind FastAPI, and against the bare model.

PYTHONPATH=platform:. python -m benchmarks.serving [throughput] [latency] [overload] [kill] [soak]
    [--seconds N] [--work DIR] [--model DIR] [--proxy haproxy|python] [--poisson]

Without a part all but the soak. The model is one of DistilBERT's size with random weights, the texts are sentences of
the sample with one mask each; both sides, every part, the same. Each side runs in fresh processes with two threads; the
service is the job that a user starts, and the load comes from a process of its own.
- throughput: 32 clients; in turn the bare forward, the engine, the service in bf16 and as it is by default (fp32), the
  peer, and the median of the rounds.
- latency: one client, against calls of the engine in a process, in turn.
- overload: three times the capacity, between two periods of 60%; the capacity is measured before and after on the same
  server. Behind HAProxy twice: the replica refuses, and HAProxy refuses (`shed_above`).
- kill: two replicas at half of their capacity, one killed.
- soak: 60% for ten minutes; memory, threads and open files of every process.
Prints a table of bars, and writes it with all figures to serving.json in the folder of --work.
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

from benchmarks.serving_load.generator import Plan, run_plan
from benchmarks.serving_load.in_process import run_in_process
from benchmarks.serving_load.kill_replica import read_killer, start_killer
from benchmarks.serving_load.processes import Process, busy_cores, cpu_by_kind, process_tree, trends
from benchmarks.serving_load.servers import Server, fill_mask_server, peer_server
from benchmarks.serving_load.targets import Bar, table, write_results
from benchmarks.serving_load.traffic import body, make_model, masked_sentences
from distilray.config.serving import LimitsConfig

THREADS, CLIENTS, TEXTS = 2, 32, 256
DEADLINE_S = LimitsConfig().deadline_s
NORMAL, OVERLOAD, HALF = 0.6, 3.0, 0.5
SHED_ABOVE = 64  # two full batches
# Of a measurement when `--seconds` says nothing.
SECONDS = {"throughput": 10.0, "latency": 3.0, "overload": 30.0, "kill": 30.0, "soak": 600.0}
ROUNDS = {"throughput": 3, "latency": 5}
_DRY_S = 3.0  # shorter runs show that a part works, and one round does for that
_BEFORE_KILL_S = 8.0  # by then the process that kills has started and is quiet


@dataclass
class Bench:
    """What all parts share, and what they have measured."""

    model_dir: str
    work: Path
    proxy: str
    poisson: bool
    seconds: float | None
    texts: list[str]
    bars: list[Bar] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bodies = [body(text) for text in self.texts]

    def length(self, part: str) -> float:
        """Seconds of a measurement."""
        return self.seconds or SECONDS[part]

    def rounds(self, part: str) -> int:
        """How often sides take turns."""
        return 1 if self.length(part) < _DRY_S else ROUNDS[part]

    def server(self, **changes: Any) -> AbstractContextManager[Server]:
        """The service."""
        log = self.work / "server.log"
        return fill_mask_server(self.model_dir, proxy=self.proxy, log=log, cpus=THREADS, **changes)

    def load(self, server: Server, **plan: Any) -> dict[str, Any]:
        """A run of the generator against a server."""
        return run_plan(Plan(port=server.port, bodies=self.bodies, poisson=self.poisson, **plan))

    def closed(self, server: Server, seconds: float, *, clients: int = CLIENTS) -> dict[str, Any]:
        """A closed loop; a fifth more before it does not count. The CPU of the server's processes comes with it."""
        before = cpu_by_kind(process_tree(server.pid))
        found = self.load(server, concurrency=clients, seconds=1.2 * seconds, warm_up_s=0.2 * seconds)
        after = cpu_by_kind(process_tree(server.pid))
        spent = {kind: (after[kind] - before.get(kind, 0.0)) * 1000 / max(found["sent"], 1) for kind in after}
        found["server_cpu_ms_per_request"] = {kind: round(each, 2) for kind, each in spent.items()}
        return found

    def capacity(self, server: Server, part: str) -> float:
        """Requests per second with 32 clients, at this moment."""
        return float(self.closed(server, min(self.length(part), 8.0))["phases"][0]["goodput"])


def throughput(bench: Bench) -> None:
    """Requests per second with 32 clients."""
    seconds = bench.length("throughput")

    def model(what: str, dtype: str) -> float:
        found = run_in_process(what, bench.model_dir, bench.texts, seconds=seconds, threads=THREADS, dtype=dtype)
        return float(found["texts_per_s"])

    rates: dict[str, list[float]] = {}
    runs = []
    for _ in range(bench.rounds("throughput")):
        found = {"raw bf16": model("raw", "bfloat16"), "raw fp32": model("raw", "float32")}
        found["engine, bf16"] = model("engine", "bfloat16")
        with bench.server(settings=("app.dtype=bfloat16",)) as server:
            in_bf16 = bench.closed(server, seconds)
        with bench.server() as server:
            ours = bench.closed(server, seconds)
        with peer_server(bench.model_dir, log=bench.work / "peer.log", threads=THREADS) as server:
            alone, peer = bench.closed(server, seconds / 2, clients=1), bench.closed(server, seconds)
        found |= {
            name: run["phases"][0]["goodput"]
            for name, run in {
                "service": ours,
                "service, bf16": in_bf16,
                "peer": peer,
                "peer, 1 client": alone,
            }.items()
        }
        runs.append({"service": ours, "service, bf16": in_bf16, "peer": peer, "peer, 1 client": alone})
        for name, rate in found.items():
            rates.setdefault(name, []).append(rate)
    best = {name: statistics.median(each) for name, each in rates.items()}
    bench.details["throughput"] = {"rates": rates, "median": best, "runs": runs}
    for what, other, goal in (
        ("service, bf16", "peer", ">= 10"),
        ("service, bf16", "raw bf16", ">= 0.7"),
        ("engine, bf16", "raw bf16", ""),
        ("service", "service, bf16", ""),
        ("raw fp32", "raw bf16", ""),
        ("peer, 1 client", "peer", ""),
    ):
        bench.bars.append(Bar("throughput", what, best[what], "req/s", goal, other, best[other]))


def latency(bench: Bench) -> None:
    """What the way over HTTP adds to a call."""
    rounds = []
    with bench.server() as server:
        bench.load(server, concurrency=1, requests=20, seconds=30)
        for _ in range(bench.rounds("latency")):
            seconds = bench.length("latency")
            direct = run_in_process("direct", bench.model_dir, bench.texts, seconds=seconds, threads=THREADS)
            served = bench.load(server, concurrency=1, requests=direct["requests"], seconds=10 * seconds)
            rounds.append((direct["latency_ms"], served["phases"][0]["latency_ms"]))
    bench.details["latency"] = [{"direct": direct, "served": served} for direct, served in rounds]
    for place, goal in (("p50", "<= 4"), ("p99", "")):
        added = statistics.median(served[place] - direct[place] for direct, served in rounds)
        call = statistics.median(direct[place] for direct, _ in rounds)
        bench.bars.append(Bar("latency", f"added {place}", added, "ms", goal, f"a call: {call:.1f} ms"))


def overload(bench: Bench) -> None:
    """Three times the capacity, and the return from it, for each component that can refuse requests."""
    _overload(bench, "overload", goal="> 0.78")
    if bench.proxy == "haproxy":
        _overload(bench, "overload, shedding", goal=">= 0.95", settings=[f"shed_above={SHED_ABOVE}"])


def _overload(bench: Bench, part: str, *, goal: str, settings: Sequence[str] = ()) -> None:
    seconds = bench.length("overload")
    with bench.server(settings=settings) as server:
        capacity = bench.capacity(server, "overload")
        phases = [(NORMAL * capacity, seconds / 3), (OVERLOAD * capacity, seconds), (NORMAL * capacity, seconds / 2)]
        found = bench.load(server, phases=phases)
        later = bench.capacity(server, "overload")
        cpu = {kind: round(each, 1) for kind, each in cpu_by_kind(process_tree(server.pid)).items()}
    bench.details[part] = {"capacity": capacity, "capacity_after": later, "server_cpu_s": cpu, **found}
    before, over, after = found["phases"]
    normal = before["latency_ms"]
    others = sum(
        count for phase in (over, after) for name, count in phase["outcomes"].items() if name not in {"200", "429"}
    )
    bars = [
        Bar(part, "p99 at 60%", normal.get("p99", 0), "ms", "<= 5", "its p50", normal.get("p50", 0)),
        Bar(part, "not 200 at 60%", _not_ok(before), "", "<= 0"),
        Bar(part, "neither 200 nor 429", others, "", "<= 0", f"of {over['sent']:,} sent"),
        Bar(part, "wrong answers", sum(found["faults"].values()), "", "<= 0", _listed(found["faults"])),
        Bar(part, "capacity after", later, "req/s", "", "before", capacity),
        Bar(part, "goodput", over["goodput"], "req/s", goal, "mean capacity", (capacity + later) / 2),
        Bar(part, "p99 of accepted", over["latency_ms"].get("p99", 0) / 1000, "s", f"< {DEADLINE_S:g}"),
        Bar(part, "p50 of refused", over["rejected_ms"].get("p50", 0), "ms"),
        Bar(part, "p99 of refused", over["rejected_ms"].get("p99", 0), "ms"),
        Bar(part, "recovered after", _recovery_s(found, normal.get("p50", 0)), "s", "<= 5"),
    ]
    bench.bars += bars


def kill(bench: Bench) -> None:
    """One of two replicas killed at half of the capacity of both."""
    with bench.server(replicas=2) as server:
        capacity = bench.capacity(server, "kill")
        killer = start_killer(server, 2, at=time.time() + _BEFORE_KILL_S)
        phases = [(HALF * capacity, _BEFORE_KILL_S + bench.length("kill"))]
        found = bench.load(server, phases=phases, trace=True)
        told = read_killer(killer)
    killed, ended = (told[name] - found["started_at"] for name in ("killed_at", "ended_at"))
    trace = found.pop("trace")
    in_flight = [row for row in trace if row[2] <= ended and row[3] > killed]
    failed = [row for row in trace if row[4] not in {"200", "429"}]
    later = [row for row in failed if row not in in_flight]
    failures = [{"sent_s": row[2] - killed, "ended_s": row[3] - killed, "outcome": row[4]} for row in failed]
    bench.details["kill"] = {"capacity": capacity, **told, "failures": failures, **found}
    bench.bars += [
        Bar("kill", "failed, in flight", len(failed) - len(later), "", f"<= {len(in_flight)}", "in flight on both"),
        Bar("kill", "failed, any other", len(later), "", "<= 0", f"of {found['sent']:,} sent"),
        Bar("kill", "turned away (429)", found["phases"][0]["outcomes"].get("429", 0)),
        Bar("kill", "noticed after", told["noticed_s"], "s"),
        Bar("kill", "replaced after", told["replaced_s"], "s", "< 15"),
    ]


def soak(bench: Bench) -> None:
    """Sixty per cent for long, and what the processes hold."""
    seconds = bench.length("soak")
    samples: list[tuple[float, list[Process]]] = []
    done = threading.Event()
    with bench.server() as server:

        def watch() -> None:
            begun = time.monotonic()
            while not done.wait(max(0.5, seconds / 200)):
                samples.append((time.monotonic() - begun, process_tree(server.pid)))

        rate = NORMAL * bench.capacity(server, "soak")
        samples.append((0.0, process_tree(server.pid)))
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            found = bench.load(server, phases=[(rate, seconds)])
        finally:
            done.set()
            watcher.join()
    grown = trends(samples, warm_up_s=min(60.0, seconds / 4))
    bench.details["soak"] = {**found, "processes": grown}
    named = [each for each in grown if each["kind"] != "other"]
    bench.bars.append(Bar("soak", "not 200", _not_ok(found["phases"][0]), "", "<= 0", f"of {found['sent']:,} sent"))
    for each in named:
        rss, what = each["rss_mb"], f"RSS of {each['kind']}, end"
        bench.bars.append(Bar("soak", what, rss["end"], "MB", "<= 1.05", "after warm-up", rss["warm"]))
    for name in ("threads", "files"):
        worst = max(named, key=lambda each: each[name]["end"] - each[name]["warm"])
        change = worst[name]["end"] - worst[name]["warm"]
        bench.bars.append(Bar("soak", f"{name} more, worst", change, "", "<= 2", worst["kind"]))


PARTS: dict[str, Callable[[Bench], None]] = {
    "throughput": throughput,
    "latency": latency,
    "overload": overload,
    "kill": kill,
    "soak": soak,
}


def _not_ok(phase: dict[str, Any]) -> int:
    return sum(count for name, count in phase["outcomes"].items() if name != "200")


def _recovery_s(found: dict[str, Any], normal_ms: float) -> float:
    """Seconds from the end of the overload until all was as before it: only 200, and a median below twice that."""
    end = found["phases"][0]["seconds"] + found["phases"][1]["seconds"]
    bad = [
        row["second"] + 1 - end
        for row in found["series"]
        if row["second"] >= end and (row["other"] or (row["p50_ms"] or 0) > 2 * normal_ms)
    ]
    return max(bad, default=0.0)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the parts and prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, help="all but the soak when left out")
    parser.add_argument("--seconds", type=float, help="of each measurement; below 3 a dry run with one round")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/serving"))
    parser.add_argument("--model", help="a model folder; made when left out")
    parser.add_argument("--proxy", choices=["haproxy", "python"], default="haproxy")
    parser.add_argument("--poisson", action="store_true", help="random arrivals instead of even ones")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does, so that no server stays behind
    given.work.mkdir(parents=True, exist_ok=True)
    model_dir = str(Path(given.model or make_model(given.work / "model")).absolute())
    texts = masked_sentences(TEXTS, seed=0)
    bench = Bench(model_dir, given.work, given.proxy, given.poisson, given.seconds, texts)
    facts = {"proxy": given.proxy, "poisson": given.poisson, "model": model_dir, "cpus": os.cpu_count()}
    busy: dict[str, float] = {}
    for part in given.parts or [part for part in PARTS if part != "soak"]:
        busy[part], started = busy_cores(1.0), time.monotonic()
        PARTS[part](bench)
        took = time.monotonic() - started
        print(f"{part}: {took:.0f} s; {busy[part]:.2f} cores were at work for others before it", flush=True)
        write_results(given.work / "serving.json", bench.bars, {**facts, "cores_of_others": busy, **bench.details})
    print(table(bench.bars), flush=True)


if __name__ == "__main__":
    main()
