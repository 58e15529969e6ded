"""Speed and quality of wikitext cleaning compared to its parser alone and to wikiextractor.

    make bench wikitext_cleaning
    PYTHONPATH=platform:. python -m benchmarks.wikitext_cleaning [--wikiextractor PYTHON] [--dump FILE]

Reads the articles of a dump (XML, plain or bz2; default: the sample). Compares the CPU seconds per MB of wikitext for
reading, cleaning, splitting into sentences, and counting residue and holes with those of mwparserfromhell's parser
alone, of cleaning and splitting alone, and of wikiextractor in another interpreter, without and with its templates
(user and system time of all its processes). wikiextractor gets `--copies` copies of the articles under new ids, so that
its startup time is negligible. Also compares residue and holes per 1,000 words of both outputs.
"""

import argparse
import bz2
import json
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell

from benchmarks.results import Result, table
from distilray.config.sample import wikipedia_dump
from distilray.corpus.quality import count_holes, count_residue, per_thousand
from distilray.corpus.sentences import split_sentences
from distilray.corpus.wikitext.arguments import HOLE, UNKNOWN
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.runtime.progress import Progress

ROUNDS = 3
OURS = "clean and count"
_PAGE = re.compile(r"  <page>.*?</page>\n", re.DOTALL)


def sentences(wikitext: str) -> list[str]:
    return split_sentences(clean_wikitext(wikitext))


def article_xml(dump: Path) -> tuple[str, list[str]]:
    """Return the header of a dump before its first page, and the XML of its articles."""
    data = dump.read_bytes()
    xml = (bz2.decompress(data) if data.startswith(b"BZh") else data).decode()
    pages = [page for page in _PAGE.findall(xml) if "<ns>0</ns>" in page and "<redirect" not in page]
    return xml[: xml.index("  <page>")], pages


def wikitexts(pages: list[str]) -> Iterator[str]:
    for page in pages:
        yield ElementTree.fromstring(page).findtext("revision/text") or ""


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds that this process needs for a function."""
    start = time.process_time()
    work()
    return time.process_time() - start


def write_copies(file: Path, header: str, pages: list[str], copies: int) -> None:
    """Write a dump with `copies` copies of each page, all with different ids and titles."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(header)
        for copy in range(copies):
            for at, page in enumerate(pages):
                renamed = page.replace("</title>", f" {copy}</title>", 1)
                stream.write(re.sub(r"<id>\d+</id>", f"<id>{copy * len(pages) + at + 1}</id>", renamed, count=1))
        stream.write("</mediawiki>\n")


def children_seconds(command: list[str]) -> float:
    """Return the user and system time of a command and all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def extracted(folder: Path, articles: int) -> list[str]:
    """Return the first texts of wikiextractor's output, which are one copy of each article."""
    lines = [line for file in sorted(folder.rglob("wiki_*")) for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines[:articles]]


def quality(name: str, texts: list[str]) -> list[Result]:
    words = sum(len(text.split()) for text in texts)
    return [
        Result(f"{name}: {what} per 1,000 words", per_thousand(sum(map(count, texts)), words))
        for what, count in (("residue", count_residue), ("holes", count_holes))
    ]


def whole_sentences(wikitext: str) -> str:
    """Return the sentences that the corpus keeps, which are those without markers for removed or unknown content."""
    return "\n".join(each for each in sentences(wikitext) if HOLE not in each and UNKNOWN not in each)


def read_clean_and_count(pages: list[str]) -> None:
    for wikitext in wikitexts(pages):
        text = whole_sentences(wikitext)
        count_residue(text)
        count_holes(text)


def run_wikiextractor(python: str, dump: Path, out: Path, *options: str) -> float:
    command = [python, "-m", "wikiextractor.WikiExtractor", "--processes", "1", "--json", "-q", "-b", "1000M"]
    return children_seconds([*command, "-o", str(out), *options, str(dump)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wikiextractor", metavar="PYTHON", help="Python interpreter that has wikiextractor 3.1")
    parser.add_argument("--dump", metavar="FILE", type=Path, help="pages-articles dump (default: the sample)")
    parser.add_argument("--copies", type=int, default=6, help="copies of each page in the dump for wikiextractor")
    args = parser.parse_args()
    header, pages = article_xml(args.dump or wikipedia_dump())
    texts = list(wikitexts(pages))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(pages)} articles, {megabytes:.2f} MB of wikitext; CPU time, median of {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as folder:
        measures: dict[str, Callable[[], float]] = {
            "mwparserfromhell alone": lambda: cpu_seconds(lambda: [mwparserfromhell.parse(text) for text in texts]),
            "without XML and counting": lambda: cpu_seconds(lambda: [sentences(text) for text in texts]),
            OURS: lambda: cpu_seconds(lambda: read_clean_and_count(pages)),
        }
        if python := args.wikiextractor:
            dump, out = Path(folder, "dump.xml"), Path(folder, "out")
            write_copies(dump, header, pages, args.copies)
            for name, options in (("without templates", ["--no-templates"]), ("with templates", [])):
                measures[f"wikiextractor {name}"] = lambda name=name, options=options: (  # type: ignore[misc]
                    run_wikiextractor(python, dump, out / name, *options) / args.copies
                )
        results = costs(measures, megabytes)
        for output in sorted(Path(folder, "out").glob("*")):
            kept = ["\n".join(split_sentences(text)) for text in extracted(output, len(pages))]
            results += quality(f"wikiextractor {output.name}", kept)
    results += quality("distilray", [whole_sentences(text) for text in texts])
    print(table(results))


def costs(measures: dict[str, Callable[[], float]], megabytes: float) -> list[Result]:
    """Alternate the measurements, so that changes in the speed of the machine affect all of them."""
    rounds: list[dict[str, float]] = [{} for _ in range(ROUNDS)]
    with Progress("wikitext_cleaning", total=ROUNDS * len(measures), unit="measurements") as progress:
        for number in range(ROUNDS * len(measures)):
            name = list(measures)[number % len(measures)]
            progress.advance_to(number, name)
            rounds[number // len(measures)][name] = measures[name]() / megabytes
    medians = {name: statistics.median(results[name] for results in rounds) for name in measures}
    ours = medians[OURS]
    return [
        Result(f"{OURS}, CPU time per MB", ours, "s", "", name, cost) for name, cost in medians.items() if name != OURS
    ]


if __name__ == "__main__":
    main()
