"""Size and structure of the code, its style, and the duration of the last test runs.

    make measure

The durations are those of the last `make check`, `make test` and `make test-all` in this checkout.
"""

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import grimp

from tests.layout.source_code import CODE
from tests.layout.test_language import RELATIVE, VARIABLES, avoided_words, docstrings, variables

ROOT = Path(__file__).parents[2]
RESULTS = Path(".pytest_cache")  # of `--junitxml` in the Makefile
PACKAGES = ("distilray", "jobs", "serve", "tuning")
FOLDERS = ("platform", "jobs", "serve", "tuning", "tests", "benchmarks", "docs")
SUITES = {
    "fast": "make check",
    "smoke": "make test",
    "smoke-service": "make test",
    "slow": "make test-all",
    "service": "make test-all",
}


def main() -> None:
    output = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [Path(name) for name in output.splitlines() if (ROOT / name).is_file()]
    for title, rows in (
        ("Lines", lines(files)),
        ("Structure", structure(files)),
        ("Style", style(files)),
        ("Tests", suites()),
    ):
        print(title)
        for name, value in rows:
            print(f"  {name:<52}{value}")


def lines(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the number of lines of code or docs in each folder."""
    for folder in FOLDERS:
        suffix = ".md" if folder == "docs" else ".py"
        own = [file for file in files if file.parts[0] == folder and file.suffix == suffix]
        yield folder, f"{sum(len((ROOT / file).read_text().splitlines()) for file in own):,} in {len(own)} files"


def structure(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield figures of the import graph of the production code."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = [file for file in files if file.suffix == ".py" and file.parts[0] in CODE and file.stem != "__init__"]
    names = Counter(file.stem for file in modules)
    importers = {name: graph.find_modules_that_directly_import(name) for name in graph.modules}
    yield "modules", str(len(modules))
    yield "packages", str(len({file.parent for file in modules}))
    yield "longest path of folders", str(max(len(file.parts) for file in modules) - 1)
    yield "modules with one importer", str(sum(len(found) == 1 for found in importers.values()))
    yield "pairs of modules that import each other", str(mutual_imports(graph))
    yield "file names that several modules have", str(sum(count > 1 for count in names.values()))


def mutual_imports(graph: grimp.ImportGraph) -> int:
    pairs = {(name, other) for name in graph.modules for other in graph.find_modules_directly_imported_by(name)}
    return sum((other, name) in pairs for name, other in pairs) // 2


def style(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the counts of tests/layout/test_language.py."""
    texts = [text for _, text in docstrings(ROOT, files)]
    yield "docstrings", str(len(texts))
    yield "docstrings that describe instead of naming", str(sum(bool(RELATIVE.match(text)) for text in texts))
    yield "variables with an avoided name", str(sum(name in VARIABLES for _, name in variables(ROOT, files)))
    yield "uses of avoided words, all of them allowed", str(len(list(avoided_words(ROOT, files))))


def suites() -> Iterator[tuple[str, str]]:
    """Yield the number of tests and the duration of the last run of each suite."""
    for name, target in SUITES.items():
        file = ROOT / RESULTS / f"{name}.xml"
        if not file.is_file():
            yield f"{name} ({target})", "not run yet"
            continue
        suite = ElementTree.parse(file).getroot().find("testsuite")
        assert suite is not None
        count, failed = int(suite.attrib["tests"]), int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        yield f"{name} ({target})", f"{count:,} tests in {float(suite.attrib['time']):,.0f} s, {failed} failed"


if __name__ == "__main__":
    main()
