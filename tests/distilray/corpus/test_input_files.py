"""Input files of every kind of source that are empty, not accessible, or in an unsupported format."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.chunks import check_inputs, plan_chunks, source_files
from distilray.corpus.extraction import ChunkCounts, ScreeningData, extract_chunk
from distilray.corpus.pipeline import plan_corpus
from distilray.errors import InputError
from tests.distilray.corpus.sources.reading import document_file, parquet, short_id
from tests.distilray.permissions import forbidden
from tests.tiny.compression import COMPRESS, zstd
from tests.tiny.extraction import LENIENT

TEXT = "The harbour is old. Its walls are of stone."
GOOD = {kind: document_file(kind, TEXT) for kind in ("text", "books", "jsonl", "csv", "parquet")}
# Files without a document; those that are compressed have content of no bytes, or no bytes at all.
EMPTY = [
    ("text", "b.txt", b""),
    ("text", "b.txt", b" \n\n"),
    ("text", "b.txt", b"\xef\xbb\xbf"),
    ("books", "b.txt", b""),
    ("books", "b.txt", b"\r\n"),
    ("books", "b.txt.xz", COMPRESS[".xz"](b"")),
    ("jsonl", "b.jsonl", b""),
    ("jsonl", "b.json", b"\n\n"),
    ("jsonl", "b.jsonl.zst", zstd(b"")),
    ("csv", "b.csv", b""),
    ("csv", "b.tsv", b"text\tn\n"),
    ("csv", "b.csv.gz", COMPRESS[".gz"](b"")),
    ("parquet", "b.parquet", b""),
    ("parquet", "b.parquet", parquet({"text": pa.array([], pa.string())})),
    *[("text", f"b.txt{suffix}", data) for suffix, compress in COMPRESS.items() for data in (compress(b""), b"")],
]


def config(
    folder: Path, kind: str, files: dict[str, bytes], *, path: str = "", fault_tolerance: Any = None, **values: Any
) -> BuildCorpusConfig:
    (folder / "in").mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / "in" / name).write_bytes(data)
    source = {"kind": kind, "name": "x", "path": path or f"{folder}/in", **values}
    recipe = {"run_dir": f"{folder}/run", "sources": [source], "filters": LENIENT}
    return BuildCorpusConfig.model_validate({**recipe, "fault_tolerance": fault_tolerance or {}})


def extract(wanted: BuildCorpusConfig) -> list[ChunkCounts]:
    files = source_files(wanted)
    check_inputs(wanted, files)
    return [extract_chunk(chunk, wanted, wanted.run_dir, ScreeningData()) for chunk in plan_chunks(wanted, files)]


@pytest.mark.parametrize(("kind", "name", "data"), EMPTY, ids=short_id)
def test_an_empty_file_among_others_is_counted_and_the_others_are_read(
    tmp_path: Path, kind: str, name: str, data: bytes
) -> None:
    good, content = GOOD[kind]
    counts = extract(config(tmp_path, kind, {good: content, name: data, f"c{good}": content}))
    assert sum(chunk.documents for chunk in counts) == 2
    assert [reason for chunk in counts for reason in chunk.dropped.elements()] == ["empty"]
    assert not any(chunk.refused or chunk.lost_bytes for chunk in counts)


@pytest.mark.parametrize("document_per", ["line", "blank_line", "file"])
def test_an_empty_file_is_counted_whatever_ends_a_document(tmp_path: Path, document_per: str) -> None:
    files = {"a.txt": TEXT.encode(), "b.txt": b""}
    counts = extract(config(tmp_path, "text", files, document_per=document_per))
    assert sum((chunk.dropped for chunk in counts), start=Counter[str]()) == {"empty": 1}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("count", [1, 3])
def test_a_source_of_empty_files_is_refused_before_the_run(tmp_path: Path, kind: str, count: int) -> None:
    suffix = Path(GOOD[kind][0]).suffix
    wanted = config(tmp_path, kind, {f"{number}{suffix}": b"" for number in range(count)})
    with pytest.raises(InputError, match=rf"in: .*{'3 files are' if count == 3 else 'is'} empty; remove this source"):
        plan_corpus(wanted)


def test_an_empty_dump_is_a_download_that_failed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.xml: the file is empty; download the dump again"):
        plan_corpus(config(tmp_path, "wikipedia", {"a.xml": b""}))


PAGE = "<page><title>{0}</title><ns>0</ns><id>{0}</id><revision><text>{1}</text></revision></page>\n"
DUMP = f"<mediawiki>{''.join(PAGE.format(number, TEXT) for number in range(1, 5))}</mediawiki>".encode()


@pytest.mark.parametrize("fraction", [0.0, 0.01])
def test_a_dump_that_is_cut_short_is_refused_before_the_run(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(InputError, match=r"a\.xml: the XML is cut short; .* raise fault_tolerance\.max_bad_fraction"):
        plan_corpus(
            config(tmp_path, "wikipedia", {"a.xml": DUMP[:-40]}, fault_tolerance={"max_bad_fraction": fraction})
        )


def test_a_dump_that_is_cut_short_is_read_up_to_the_cut_if_the_recipe_allows_it(tmp_path: Path) -> None:
    [counts] = extract(config(tmp_path, "wikipedia", {"a.xml": DUMP[:-40]}, fault_tolerance={"max_bad_fraction": 0.5}))
    assert (counts.documents, counts.quarantined) == (3, {"cut_short": 1})
    assert counts.lost_bytes == len(DUMP) - 40 - DUMP.rindex(b"<page>")


@pytest.mark.parametrize("kind", [*GOOD, "wikipedia"])
def test_a_forbidden_file_is_named(tmp_path: Path, kind: str) -> None:
    name, data = GOOD.get(kind, ("a.xml", b"<mediawiki>"))
    wanted = config(tmp_path, kind, {name: data})
    message = rf"^[^\n]*{name}: permission denied; give user[^\n]*$"
    with forbidden(tmp_path / "in" / name), pytest.raises(InputError, match=message):
        plan_corpus(wanted)


@pytest.mark.parametrize(
    ("mode", "words"), [(0, "permission denied|cannot be listed"), (0o400, "in"), (0o100, "listed")]
)
def test_a_folder_without_access_is_named(tmp_path: Path, mode: int, words: str) -> None:
    wanted = config(tmp_path, "text", {"a.txt": TEXT.encode()})
    with forbidden(tmp_path / "in", mode), pytest.raises(InputError, match=words) as caught:
        plan_corpus(wanted)
    assert f"{tmp_path}/in" in str(caught.value)


@pytest.mark.parametrize("key", ["tokenizer_path", "decontamination"])
def test_a_forbidden_file_beside_the_sources_is_named(tmp_path: Path, key: str) -> None:
    wanted = config(tmp_path, "text", {"a.txt": TEXT.encode()})
    (other := tmp_path / "dev.tsv").write_text("x")
    values = {"tokenizer_path": str(other), "decontamination": {"paths": [str(other)]}}
    wanted = BuildCorpusConfig.model_validate({**wanted.model_dump(), key: values[key]})
    with forbidden(other), pytest.raises(InputError, match=r"dev\.tsv: permission denied"):
        plan_corpus(wanted)


UNSUPPORTED = {
    "convert it to plain text": ["a.pdf", "a.DOCX", "a.epub", "a.html.gz"],
    "unpack it": ["a.zip", "a.tar.gz", "a.7z"],
    r"save its table as \.csv": ["a.xlsx"],
    r"compress it as \.gz": ["a.txt.lz4"],
}


@pytest.mark.parametrize("kind", ["text", "books", "csv"])
@pytest.mark.parametrize(("fix", "name"), [(fix, name) for fix, names in UNSUPPORTED.items() for name in names])
def test_another_format_is_refused_with_what_to_do(tmp_path: Path, kind: str, name: str, fix: str) -> None:
    for path in ("", f"{tmp_path}/in/{name}"):
        with pytest.raises(InputError, match=rf"^[^\n]*{fix}[^\n]*$"):
            source_files(config(tmp_path, kind, {name: b"x"}, path=path))


@pytest.mark.parametrize(
    ("data", "fix"),
    [
        (b"%PDF-1.7", "convert it"),
        (b"PK\x03\x04", "unpack it"),
        (COMPRESS[".gz"](b"x"), r"end in \.gz"),
        (zstd(b"x"), r"\.zst"),
    ],
)
@pytest.mark.parametrize("kind", ["text", "jsonl", "csv"])
def test_another_format_under_a_name_of_text_is_refused(tmp_path: Path, kind: str, data: bytes, fix: str) -> None:
    with pytest.raises(InputError, match=fix):
        plan_corpus(config(tmp_path, kind, {GOOD[kind][0]: data}))


def test_a_plan_names_the_files_of_a_folder_that_are_not_read(tmp_path: Path) -> None:
    wanted = config(tmp_path, "text", {"a.txt": TEXT.encode(), "b.pdf": b"x", "c.pdf": b"x", "d.md": b"x"})
    plan = plan_corpus(wanted)
    assert plan["does not read"] == "2 files (.pdf 2): b.pdf: convert it to plain text (.txt), one file per document"


@pytest.mark.parametrize("kind", ["text", "books", "jsonl", "csv"])
def test_zstd_files_of_every_kind_are_read(tmp_path: Path, kind: str) -> None:
    name, data = GOOD[kind]
    counts = extract(config(tmp_path, kind, {f"{name}.zst": zstd(data)}))
    assert sum(chunk.documents for chunk in counts) == 1
