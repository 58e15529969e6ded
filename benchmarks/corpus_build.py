"""How fast a corpus is built, as ratios to what it is made of and to a peer, and how that grows with cores.

PYTHONPATH=platform python -m benchmarks.corpus_build [--copies 40] [--wikiextractor PYTHON] [--cpus 1 2]

Writes a multistream dump of the sample's pages, `copies` times under new ids (5.7 MB of wikitext each), and takes it
through, all in this one run: (a) `jobs.build_corpus` with each number of CPUs, (b) mwparserfromhell's parser alone in
as many processes, (c) wikiextractor as its users run it, where a Python that has it is given. Prints MB of wikitext a
second by the clock, seconds of CPU, the memory of the driver for the dump and for an eighth of it, and the ratios.
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

from tests.distilray.corpus.large_dump import sample_parts, write_multistream

MB = 1e6
DRIVER = (
    "import sys; from jobs import build_corpus; code = build_corpus.main(sys.argv[1:]);"
    "peak = next(line for line in open('/proc/self/status') if 'VmHWM' in line).split()[1];"
    "print('driver_kb', peak); sys.exit(code)"
)


def texts() -> list[str]:
    found = [re.search(rb"<ns>0</ns>.*<text[^>]*>(.*)</text>", page, re.DOTALL) for page in sample_parts()[1]]
    return [text[1].decode() for text in found if text is not None]


def parse_all(repeats: int) -> None:
    for _ in range(repeats):
        for text in texts():
            mwparserfromhell.parse(text)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU in the processes that the work started."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(folder: Path, dump: Path, cpus: int) -> dict[str, float]:
    """One run of the job: seconds of it, of its first phase on all cores, and the memory of the driver in MB."""
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
    parser.add_argument("--wikiextractor", help="a Python in whose environment wikiextractor is installed")
    options = parser.parse_args()
    wikitext = sum(len(text.encode()) for text in texts()) / MB
    total = wikitext * options.copies
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dump, small = folder / "wiki-multistream.xml.bz2", folder / "small-multistream.xml.bz2"
        write_multistream(dump, options.copies)
        write_multistream(small, max(1, options.copies // 8))
        print(f"{total:.0f} MB of wikitext in {dump.stat().st_size / MB:.0f} MB of bz2")
        repeats = max(1, options.copies // 8)
        results, parsers = {}, {}
        for cpus in options.cpus:
            results[cpus] = found = build(folder, dump, cpus)
            print(
                f"build_corpus, {cpus} CPUs: {total / found['wall']:.2f} MB/s by the clock, "
                f"{total / found['core_s']:.2f} MB/s and core, driver {found['driver_mb']:.0f} MB, "
                f"residue {found['residue']}, holes {found['holes']} per 1,000 words"
            )
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(cpus, mp_context=context) as pool:
                list(pool.map(parse_all, [0] * cpus))
                started = time.perf_counter()
                list(pool.map(parse_all, [repeats] * cpus))
                parsers[cpus] = cpus * repeats * wikitext / (time.perf_counter() - started)
            print(f"mwparserfromhell alone, {cpus} processes: {parsers[cpus]:.2f} MB/s")
            print(f"  build_corpus / mwparserfromhell: {total / found['wall'] / parsers[cpus]:.2f}x")
        first, last = options.cpus[0], options.cpus[-1]
        print(
            f"{first} -> {last} CPUs: build_corpus {results[first]['wall'] / results[last]['wall']:.2f}x by the clock, "
            f"mwparserfromhell {parsers[last] / parsers[first]:.2f}x (what the machine gives)"
        )
        memory = build(folder, small, last)["driver_mb"]
        print(f"driver: {memory:.0f} MB for an eighth of the dump, {results[last]['driver_mb']:.0f} MB for all of it")
        if options.wikiextractor:
            peer(options.wikiextractor, dump, folder, total, results[first]["core_s"])


def peer(python: str, dump: Path, folder: Path, total: float, core_s: float) -> None:
    command = [python, "-m", "wikiextractor.WikiExtractor", "--processes", "1", "-o", str(folder / "out"), "-b", "500M"]
    _, cpu = timed(lambda: run(*command, "--no-templates", str(dump)) and None)
    print(
        f"wikiextractor --no-templates: {total / cpu:.2f} MB/s of CPU; build_corpus / wikiextractor {cpu / core_s:.2f}x"
    )


if __name__ == "__main__":
    main()
