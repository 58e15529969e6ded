from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray import schemas
from distilray.errors import InputError

ALL = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}


@pytest.mark.parametrize("name", ALL)
def test_a_schema_has_its_name_and_version_also_in_a_file(name: str, tmp_path: Path) -> None:
    assert ALL[name].metadata[b"distilray.schema"].decode().split("/")[0] == name.lower()
    pq.write_table(ALL[name].empty_table(), tmp_path / "x.parquet")
    schemas.check_schema(pq.read_schema(tmp_path / "x.parquet"), ALL[name], "x.parquet")


def test_no_schema_contains_an_extension_type() -> None:
    # Their metadata has been unpickled by readers; plain lists and numbers carry no code.
    fields = [field for schema in ALL.values() for field in schema]
    assert not [field.name for field in fields if isinstance(field.type, pa.BaseExtensionType)]


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (schemas.DOCUMENTS.remove_metadata(), schemas.DOCUMENTS, r"schema 'none', but 'documents/\d+' is needed"),
        (schemas.DOCUMENTS, schemas.EXAMPLES, r"schema 'documents/\d+', but 'examples/\d+' is needed"),
        (schemas.DOCUMENTS.remove(0), schemas.DOCUMENTS, "columns differ"),
    ],
    ids=["no version", "another stage", "changed columns"],
)
def test_another_schema_is_refused(actual: pa.Schema, expected: pa.Schema, message: str) -> None:
    with pytest.raises(InputError, match=rf"^x.arrow: {message}"):
        schemas.check_schema(actual, expected, "x.arrow")
