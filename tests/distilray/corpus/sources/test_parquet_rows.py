from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.corpus.sources import parquet_rows
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from distilray.formats import parquet as formats_parquet
from distilray.formats.bad_rows import BadRow
from distilray.formats.parquet import ParquetTable
from tests.distilray.corpus.sources.reading import Entries, bad_rows, check, parquet, read, source, texts
from tests.tiny import dumps

ROWS = 20
SOURCE = source("parquet")


def write(folder: Path, columns: dict[str, Any], **options: Any) -> str:
    return dumps.write(folder, parquet(columns, **options), "a.parquet")


def rows(*documents: str, first: int = 0) -> Entries:
    """Return the documents of a column of texts."""
    return [
        RawDocument(f"a.parquet:{number}", "", text, len(text.encode())) for number, text in enumerate(documents, first)
    ]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=["string", "large_string", "string_view", "dictionary"],
)
def test_every_type_of_string_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    uri = write(tmp_path, {"text": pa.array(["a", "é", "a"], pa.string()).cast(kind)})
    check("parquet", uri)
    assert read("parquet", uri) == rows("a", "é", "a")


def test_a_document_has_its_id_and_title(tmp_path: Path) -> None:
    uri = write(tmp_path, {"n": [7, None], "name": ["T", None], "body": ["a", "b"], "other": [[1], []]})
    values = {"text_column": "body", "title_column": "name", "id_column": "n"}
    check("parquet", uri, **values)
    assert read("parquet", uri, **values) == [RawDocument("7", "T", "a", 1), RawDocument("a.parquet:1", "", "b", 1)]


@pytest.mark.parametrize("chunk_bytes", [1, 500, 1 << 20])
def test_any_ranges_give_the_same_documents(tmp_path: Path, chunk_bytes: int) -> None:
    texts = [f"text {number}" for number in range(ROWS)]
    uri = write(tmp_path, {"text": texts}, row_group_size=3)
    assert read("parquet", uri, chunk_bytes=chunk_bytes) == rows(*texts)


def test_ranges_are_row_groups_that_sum_to_about_the_file(tmp_path: Path) -> None:
    columns = {"text": [f"{number}" * 1000 for number in range(ROWS)]}
    uri = write(tmp_path, columns, row_group_size=3, compression="none", write_statistics=False)
    ranges = parquet_rows.file_ranges(SOURCE, uri, "a.parquet", chunk_bytes=1)
    assert [(each.start, each.end, each.form) for each in ranges] == [(n, n + 1, "row_groups") for n in range(7)]
    assert sum(each.stored_bytes for each in ranges) == pytest.approx(Path(uri).stat().st_size, rel=0.1)
    two = ranges[0].stored_bytes + ranges[1].stored_bytes
    assert parquet_rows.file_ranges(SOURCE, uri, "a.parquet", chunk_bytes=two)[0].end == 2


def test_a_large_row_group_is_read_in_batches_of_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "_BATCH_BYTES", 5000)
    uri = write(tmp_path, {"text": [f"{number:1000}" for number in range(ROWS)]}, use_dictionary=False)
    assert 1 <= parquet_rows._batch_rows(SOURCE, pq.ParquetFile(uri).metadata.row_group(0)) <= 5
    assert len(read("parquet", uri)) == ROWS


def test_a_long_text_in_many_rows_is_held_once(tmp_path: Path) -> None:
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * (1 << 18)]))
    uri = write(tmp_path, {"text": repeated}, store_schema=False)
    before = pa.total_allocated_bytes()
    (file_range,) = parquet_rows.file_ranges(SOURCE, uri, "a.parquet", chunk_bytes=1 << 20)
    documents = parquet_rows.read_documents(SOURCE, file_range, max_document_bytes=1 << 20)
    assert next(documents).text_bytes == 1 << 18  # type: ignore[union-attr]
    assert pa.total_allocated_bytes() - before < 16 << 20


def test_bad_rows_are_reported_with_their_number_and_the_next_is_read(tmp_path: Path) -> None:
    *bad, last = read("parquet", write(tmp_path, {"text": pa.array([None, "x" * 1001, "a"])}), limit=1000)
    assert [(row.reason, row.offset, row.detail[:5]) for row in bad_rows(bad)] == [
        ("text_missing", 4, "row 0"),
        ("too_large", 4, "row 1"),
    ]
    assert [last] == rows("a", first=2)


def test_a_string_that_is_not_utf8_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    invalid = pa.array([b"\xff\xfe", b"a"], pa.binary()).view(pa.string())
    assert texts(read("parquet", write(tmp_path, {"text": invalid}))) == ["not_utf8", "a"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_row_group_is_lost_and_the_next_is_read(tmp_path: Path, compression: str) -> None:
    long = [f"{number} a text that is long enough to be compressed, compressed" * 9 for number in range(ROWS)]
    uri = write(tmp_path, {"text": long}, row_group_size=10, compression=compression, write_page_checksum=True)
    group = pq.ParquetFile(uri).metadata.row_group(0)
    data = bytearray(Path(uri).read_bytes())
    position = group.column(0).dictionary_page_offset + group.total_byte_size // 40
    data[position : position + 20] = b"?" * 20
    Path(uri).write_bytes(data)
    bad, *documents = read("parquet", uri)
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.lost_bytes) == ("parquet_damaged", group.column(0).total_compressed_size)
    assert documents == rows(*long[10:], first=10)


def test_an_error_of_the_disk_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write(tmp_path, {"text": ["a" * 100]})
    batches = ParquetTable.batches

    def broken(table: ParquetTable, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(formats_parquet._WatchedFile, "_read", fail)
        return batches(table, *args, **options)

    def fail(self: object, size: int) -> bytes:
        raise OSError("input/output error")

    monkeypatch.setattr(ParquetTable, "batches", broken)
    with pytest.raises(OSError, match="input/output error"):
        read("parquet", uri)


class Canary(pa.ExtensionType):  # type: ignore[misc]
    """Extension type that records whether pyarrow deserialized it."""

    read = False

    def __init__(self) -> None:
        super().__init__(pa.string(), "tests.canary")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"code"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Canary":
        cls.read = True
        return cls()


@pytest.mark.parametrize("padding", range(3))
def test_an_extension_type_is_refused_before_its_reader_runs(tmp_path: Path, padding: int) -> None:
    pa.register_extension_type(Canary())
    try:
        values = pa.ExtensionArray.from_storage(Canary(), pa.array(["a"]))
        uri = write(tmp_path, {"text": ["a"], "c" * (padding + 1): values})
        Canary.read = False
        with pytest.raises(InputError, match="extension type"):
            check("parquet", uri)
    finally:
        pa.unregister_extension_type("tests.canary")
    assert not Canary.read
