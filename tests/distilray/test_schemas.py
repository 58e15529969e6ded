from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray import schemas
from distilray.errors import InputError

ALL = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}


@pytest.mark.parametrize("name", ALL)
def test_a_schema_carries_its_name_and_version(name: str) -> None:
    assert ALL[name].metadata[b"distilray.schema"].decode().split("/")[0] == name.lower()


@pytest.mark.parametrize("name", ALL)
def test_a_schema_survives_a_parquet_file(name: str, tmp_path: Path) -> None:
    pq.write_table(ALL[name].empty_table(), tmp_path / "x.parquet")
    schemas.check_schema(pq.read_schema(tmp_path / "x.parquet"), ALL[name], "x.parquet")


def test_no_schema_holds_an_extension_type() -> None:
    # Their metadata has been unpickled by readers; plain lists and numbers carry no code.
    fields = [field for schema in ALL.values() for field in schema]
    assert not [field.name for field in fields if isinstance(field.type, pa.BaseExtensionType)]


def test_a_file_without_a_schema_version_is_refused() -> None:
    with pytest.raises(InputError, match=r"^x.arrow: schema 'none', but 'documents/\d+' is needed"):
        schemas.check_schema(schemas.DOCUMENTS.remove_metadata(), schemas.DOCUMENTS, "x.arrow")


def test_the_schema_of_another_stage_is_refused() -> None:
    with pytest.raises(InputError, match=r"^x.arrow: schema 'documents/"):
        schemas.check_schema(schemas.DOCUMENTS, schemas.EXAMPLES, "x.arrow")


def test_changed_columns_under_the_same_version_are_refused() -> None:
    with pytest.raises(InputError, match=r"^x.parquet: columns differ"):
        schemas.check_schema(schemas.DOCUMENTS.remove(0), schemas.DOCUMENTS, "x.parquet")
