"""Speed of `jobs.build_corpus` compared to its wikitext parser and to wikiextractor, and its scaling with cores.

    make bench corpus_build
    PYTHONPATH=platform:. python -m benchmarks.corpus_build [--copies 40] [--wikiextractor PYTHON] [--cpus 1 2]

Writes a multistream dump with `--copies` copies of the sample's pages under new ids (5.7 MB of wikitext per copy), and
processes it with (a) `jobs.build_corpus` for each number of CPUs, (b) mwparserfromhell's parser alone in as many
processes, and (c) wikiextractor, if `--wikiextractor` names a Python that has it. Compares MB of wikitext per second of
wall time, CPU seconds, and the memory of the driver for the dump and for an eighth of it.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mwparserfromhell

from benchmarks.results import Result, table
from distilray.runtime.progress import Progress
from tests.distilray.corpus.large_dump import sample_parts, write_multistream

MB = 1e6
DRIVER = (
    "import sys; from jobs import build_corpus; code = build_corpus.main(sys.argv[1:]);"
    "peak = next(line for line in open('/proc/self/status') if 'VmHWM' in line).split()[1];"
    "print('driver_kb', peak); sys.exit(code)"
)


def texts() -> list[str]:
    matches = [re.search(rb"<ns>0</ns>.*<text[^>]*>(.*)</text>", page, re.DOTALL) for page in sample_parts()[1]]
    return [match[1].decode() for match in matches if match is not None]


def parse_all(repeats: int) -> None:
    for _ in range(repeats):
        for text in texts():
            mwparserfromhell.parse(text)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall seconds, and CPU seconds of the child processes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(folder: Path, dump: Path, cpus: int) -> dict[str, float]:
    """Run the job; return its wall seconds, CPU seconds of its first phase, text quality and driver memory in MB."""
    recipe = folder / "recipe.yaml"
    target = folder / f"run-{dump.stem}-{cpus}"
    recipe.write_text(json.dumps({"run_dir": str(target), "sources": [{"path": str(dump)}], "ray": {"num_cpus": cpus}}))
    output = ""

    def job() -> None:
        nonlocal output
        output = run(sys.executable, "-c", DRIVER, "--recipe", str(recipe))

    wall, _ = timed(job)
    report = json.loads((target / "corpus_report.json").read_text())
    return {
        "wall": wall,
        "core_s": report["stages"]["cpu"]["seconds"],
        "residue": report["residue_per_1000_words"],
        "holes": report["holes_per_1000_words"],
        "driver_mb": int(output.split("driver_kb")[1].split()[0]) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--cpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--wikiextractor", help="Python interpreter that has wikiextractor")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Progress("corpus_build", total=None, unit="measurements") as progress:
        print(table(measure(args, Path(name), progress)))


def measure(args: argparse.Namespace, folder: Path, progress: Progress) -> list[Result]:
    megabytes = sum(len(text.encode()) for text in texts()) / MB * args.copies
    dump, small = folder / "wiki-multistream.xml.bz2", folder / "small-multistream.xml.bz2"
    write_multistream(dump, args.copies)
    write_multistream(small, max(1, args.copies // 8))
    progress.advance_to(1, f"{megabytes:.0f} MB of wikitext in {dump.stat().st_size / MB:.0f} MB of bz2")
    builds, parsers, results = {}, {}, []
    for number, cpus in enumerate(args.cpus):
        builds[cpus] = build(folder, dump, cpus)
        progress.advance_to(2 + 2 * number, f"build_corpus with {cpus} CPUs")
        parsers[cpus] = megabytes / args.copies * parser_rate(cpus, max(1, args.copies // 8))
        progress.advance_to(3 + 2 * number, f"mwparserfromhell with {cpus} processes")
        rate = megabytes / builds[cpus]["wall"]
        results.append(Result(f"{cpus} CPUs", rate, "MB/s", ">= 0.8", "mwparserfromhell alone", parsers[cpus]))
    first, last = args.cpus[0], args.cpus[-1]
    scaling = builds[first]["wall"] / builds[last]["wall"]
    memory = build(folder, small, last)["driver_mb"]
    results += [
        Result(f"speedup, {last} CPUs", scaling, "", "", "of mwparserfromhell", parsers[last] / parsers[first]),
        Result("driver, whole dump", builds[last]["driver_mb"], "MB", "<= 1.2", "an eighth of it", memory),
        Result("residue per 1,000 words", builds[last]["residue"]),
        Result("holes per 1,000 words", builds[last]["holes"]),
    ]
    if args.wikiextractor:
        cpu_s = wikiextractor_seconds(args.wikiextractor, dump, folder)
        ours = megabytes / builds[first]["core_s"]
        results.append(Result("MB per CPU second", ours, "MB/s", ">= 1", "wikiextractor", megabytes / cpu_s))
    return results


def parser_rate(processes: int, repeats: int) -> float:
    """Return how often per second the processes together parse the articles of the sample."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(parse_all, [0] * processes))
        start = time.perf_counter()
        list(pool.map(parse_all, [repeats] * processes))
        return processes * repeats / (time.perf_counter() - start)


def wikiextractor_seconds(python: str, dump: Path, folder: Path) -> float:
    """Return the CPU seconds that wikiextractor needs for a dump."""
    command = [python, "-m", "wikiextractor.WikiExtractor", "--processes", "1", "-o", str(folder / "out"), "-b", "500M"]
    _, cpu_s = timed(lambda: run(*command, "--no-templates", str(dump)) and None)
    return cpu_s


if __name__ == "__main__":
    main()
