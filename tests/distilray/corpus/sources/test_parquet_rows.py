from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config.corpus import ParquetSource
from distilray.corpus.sources import parquet_rows as parquet_rows_module
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from distilray.formats import parquet as formats_parquet
from distilray.formats.bad_rows import BadRow
from distilray.formats.parquet import ParquetTable

ROWS = 20


def source(**columns: str) -> ParquetSource:
    return ParquetSource(kind="parquet", path="x", name="notes", **columns)  # type: ignore[arg-type]


def write(folder: Path, columns: dict[str, Any], **options: Any) -> str:
    uri = str(folder / "a.parquet")
    pq.write_table(pa.table(columns), uri, **options)
    return uri


def read(uri: str, chunk_bytes: int = 1 << 20, limit: int = 1000, **columns: str) -> list[RawDocument | BadRow]:
    wanted = source(**columns)
    file_ranges = parquet_rows_module.file_ranges(wanted, uri, "a.parquet", chunk_bytes=chunk_bytes)
    return [
        found
        for file_range in file_ranges
        for found in parquet_rows_module.read_documents(wanted, file_range, max_document_bytes=limit)
    ]


@pytest.mark.parametrize(("name", "belongs"), [("a.parquet", True), ("b/A.PQ", True), ("a.parquet.gz", False)])
def test_parquet_is_known_by_its_suffix(name: str, belongs: bool) -> None:
    assert parquet_rows_module.is_input(name) is belongs


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_type_of_string_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    uri = write(tmp_path, {"text": pa.array(["a", "é", "a"], pa.string()).cast(kind)})
    parquet_rows_module.check_file(source(), uri)
    assert read(uri) == [
        RawDocument("a.parquet:0", "", "a", 1),
        RawDocument("a.parquet:1", "", "é", 2),
        RawDocument("a.parquet:2", "", "a", 1),
    ]


def test_a_document_has_its_id_and_title(tmp_path: Path) -> None:
    uri = write(tmp_path, {"n": [7, None], "name": ["T", None], "body": ["a", "b"], "other": [[1], []]})
    assert read(uri, text_column="body", title_column="name", id_column="n") == [
        RawDocument("7", "T", "a", 1),
        RawDocument("a.parquet:1", "", "b", 1),
    ]


@pytest.mark.parametrize("chunk_bytes", [1, 500, 1 << 20])
def test_any_ranges_give_the_same_documents(tmp_path: Path, chunk_bytes: int) -> None:
    uri = write(tmp_path, {"text": [f"text {n}" for n in range(ROWS)]}, row_group_size=3)
    found = read(uri, chunk_bytes=chunk_bytes)
    assert found == [RawDocument(f"a.parquet:{n}", "", f"text {n}", len(f"text {n}")) for n in range(ROWS)]


def test_ranges_are_row_groups_that_sum_to_about_the_file(tmp_path: Path) -> None:
    uri = write(
        tmp_path,
        {"text": [f"{n}" * 1000 for n in range(ROWS)]},
        row_group_size=3,
        compression="none",
        write_statistics=False,
    )
    file_ranges = parquet_rows_module.file_ranges(source(), uri, "a.parquet", chunk_bytes=1)
    assert [(file_range.start, file_range.end, file_range.form) for file_range in file_ranges] == [
        (n, n + 1, "row_groups") for n in range(7)
    ]
    assert sum(file_range.stored_bytes for file_range in file_ranges) == pytest.approx(
        Path(uri).stat().st_size, rel=0.1
    )


def test_a_large_row_group_is_read_in_batches_of_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows_module, "_BATCH_BYTES", 5000)
    uri = write(tmp_path, {"text": [f"{n:1000}" for n in range(ROWS)]}, use_dictionary=False)
    rows = parquet_rows_module._batch_rows(source(), pq.ParquetFile(uri).metadata.row_group(0))
    assert 1 <= rows <= 5
    assert len(read(uri)) == ROWS


def test_a_long_text_in_many_rows_is_held_once(tmp_path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * (1 << 18)]))
    uri = write(tmp_path, {"text": texts}, store_schema=False)
    before = pa.total_allocated_bytes()
    (file_range,) = parquet_rows_module.file_ranges(source(), uri, "a.parquet", chunk_bytes=1 << 20)
    documents = parquet_rows_module.read_documents(source(), file_range, max_document_bytes=1 << 20)
    assert next(documents).text_bytes == 1 << 18  # type: ignore[union-attr]
    assert pa.total_allocated_bytes() - before < 16 << 20


def test_a_missing_value_is_reported_with_its_row(tmp_path: Path) -> None:
    uri = write(tmp_path, {"text": pa.array([None, "x" * 1001, "a"])})
    null, large, last = read(uri)
    assert isinstance(null, BadRow)
    assert isinstance(large, BadRow)
    assert [(entry.reason, entry.offset, entry.detail[:5]) for entry in (null, large)] == [
        ("text_missing", 4, "row 0"),
        ("too_large", 4, "row 1"),
    ]
    assert last == RawDocument("a.parquet:2", "", "a", 1)


def test_a_string_that_is_not_utf8_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    bad = pa.array([b"\xff\xfe", b"a"], pa.binary()).view(pa.string())
    refused, last = read(write(tmp_path, {"text": bad}))
    assert isinstance(refused, BadRow)
    assert (refused.reason, last) == ("not_utf8", RawDocument("a.parquet:1", "", "a", 1))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_row_group_is_lost_and_the_next_is_read(tmp_path: Path, compression: str) -> None:
    texts = [f"{n} a text that is long enough to be compressed, compressed" * 9 for n in range(ROWS)]
    uri = write(tmp_path, {"text": texts}, row_group_size=10, compression=compression, write_page_checksum=True)
    group = pq.ParquetFile(uri).metadata.row_group(0)
    data = bytearray(Path(uri).read_bytes())
    place = group.column(0).dictionary_page_offset + group.total_byte_size // 40
    data[place : place + 20] = b"?" * 20
    Path(uri).write_bytes(data)
    bad, *found = read(uri)
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.lost_bytes) == ("parquet_damaged", group.column(0).total_compressed_size)
    assert [entry.key for entry in found if isinstance(entry, RawDocument)] == [f"a.parquet:{n}" for n in range(10, 20)]


def test_a_fault_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write(tmp_path, {"text": ["a" * 100]})
    (file_range,) = parquet_rows_module.file_ranges(source(), uri, "a.parquet", chunk_bytes=1)
    batches = ParquetTable.batches

    def broken(table: ParquetTable, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(formats_parquet._WatchedFile, "_read", fail)
        return batches(table, *args, **options)

    def fail(self: object, size: int) -> bytes:
        raise OSError("input/output error")

    monkeypatch.setattr(ParquetTable, "batches", broken)
    with pytest.raises(OSError, match="input/output error"):
        list(parquet_rows_module.read_documents(source(), file_range, max_document_bytes=1000))


@pytest.mark.parametrize(
    ("columns", "wanted", "reason"),
    [
        ({"body": ["a"], "n": [1]}, {}, "no column 'text', or more than one; set text_column to one of 'body', 'n'"),
        ({"text": [1]}, {}, "column 'text' is int64, not string"),
        ({"text": [b"a"]}, {}, "column 'text' is binary, not string"),
        ({"text": [["a"]]}, {}, r"column 'text' is list<.*>, not string"),
        ({"a": [{"text": "b"}]}, {"text_column": "a.text"}, "no column 'a.text'"),
        ({"text": ["a"], "n": [1.5]}, {"id_column": "n"}, "column 'n' is double, not string"),
        ({"text": ["a"], "n": [1]}, {"title_column": "n"}, "column 'n' is int64, not string"),
    ],
)
def test_a_file_without_the_columns_is_refused(
    tmp_path: Path, columns: dict[str, Any], wanted: dict[str, str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parquet_rows_module.check_file(source(**wanted), write(tmp_path, columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"PAR1", b"words" * 10, b"PAR1" + b"x" * 20 + b"\x0f\x00\x00\x00PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(InputError, match="not a Parquet file"):
        parquet_rows_module.check_file(source(), f"{tmp_path}/a.parquet")


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
            parquet_rows_module.check_file(source(), uri)
    finally:
        pa.unregister_extension_type("tests.canary")
    assert not Canary.read
