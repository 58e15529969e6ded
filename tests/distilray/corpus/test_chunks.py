from pathlib import Path

import pytest

from distilray.config.base import input_locations
from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.chunks import Chunk, plan_chunks, source_files
from distilray.errors import InputError


def config(*sources: dict[str, object], **values: object) -> BuildCorpusConfig:
    return BuildCorpusConfig.model_validate({"run_dir": "r", "sources": list(sources), **values})


def books(folder: Path, **sizes: int) -> dict[str, object]:
    for name, size in sizes.items():
        file = folder / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    return {"kind": "books", "path": str(folder)}


def test_the_sample_is_a_file_of_this_machine() -> None:
    assert Path(source_files(config({"path": "sample:wikipedia"}))[0].uri).is_file()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"path": "sample:books"}], "no such sample"),
        (
            [{"kind": "books", "path": "{folder}"}, {"kind": "text", "name": "again", "path": "{folder}/a.txt"}],
            "listed twice",
        ),
        ([{"kind": "csv", "name": "rows", "path": "{folder}"}], "none of 1 files belongs to a source of kind 'csv'"),
    ],
    ids=["another sample", "a file twice", "no file of its kind"],
)
def test_a_source_without_files_of_its_own_is_refused(
    tmp_path: Path, sources: list[dict[str, str]], message: str
) -> None:
    books(tmp_path, a=1)
    with pytest.raises(InputError, match=message):
        source_files(config(*[{**each, "path": each["path"].format(folder=tmp_path)} for each in sources]))


@pytest.mark.parametrize(
    ("pattern", "names"), [("", ["a%20.txt", "b/two.txt", "c/three.txt"]), ("/*/*.txt", ["b/two.txt", "c/three.txt"])]
)
def test_files_are_named_by_their_path_below_the_folder(tmp_path: Path, pattern: str, names: list[str]) -> None:
    books(tmp_path, **{"b/two": 1, "c/three": 1, "a%20": 1})
    files = source_files(config({"kind": "books", "path": f"{tmp_path}{pattern}"}))
    assert [file.name for file in files] == names


def test_a_file_without_suffix_is_read_unless_it_is_binary(tmp_path: Path) -> None:
    for name, data in {"README": b"x", "program": b"\x7fELF\0", "notes.md": b"x", "archive": b"\x1f\x8b\x08"}.items():
        (tmp_path / name).write_bytes(data)
    files = source_files(config({"kind": "text", "name": "notes", "path": str(tmp_path)}))
    assert [file.name for file in files] == ["README", "notes.md"]


def test_small_files_share_a_chunk_up_to_its_size(tmp_path: Path) -> None:
    settings = config(books(tmp_path, a=40_000, b=40_000, c=40_000, d=90_000), chunk_mb=0.09)
    chunks = plan_chunks(settings, source_files(settings))
    assert [[Path(file_range.uri).stem for file_range in chunk.ranges] for chunk in chunks] == [
        ["a", "b"],
        ["c"],
        ["d"],
    ]


def test_a_chunk_never_contains_two_sources(tmp_path: Path) -> None:
    settings = config(books(tmp_path / "x", a=10), {**books(tmp_path / "y", b=10), "name": "others"})
    assert [chunk.source for chunk in plan_chunks(settings, source_files(settings))] == [0, 1]


def test_a_chunk_survives_the_round_trip_to_a_worker(tmp_path: Path) -> None:
    settings = config(books(tmp_path, a=10, b=20))
    chunk = plan_chunks(settings, source_files(settings))[0]
    assert Chunk.from_json(chunk.to_json()) == chunk


def test_every_input_is_in_the_manifest(tmp_path: Path) -> None:
    settings = config(books(tmp_path, a=1), decontamination={"paths": ["dev.tsv"]}, tokenizer_path="t.json")
    assert set(input_locations(settings)) == {"source_0", "evaluation_0", "tokenizer"}


def test_the_location_of_an_input_is_not_part_of_the_identity(tmp_path: Path) -> None:
    here, there = books(tmp_path / "here", a=1), books(tmp_path / "there", a=1)
    assert config(here).identity_hash() == config(there).identity_hash()


def test_a_relative_path_is_the_same_file_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = books(tmp_path, **{"b/two": 1})
    monkeypatch.chdir(tmp_path)
    for path in (".", "*/*.txt", "b/two.txt"):
        files = source_files(config({**source, "path": path}))
        assert [file.uri for file in files] == [f"{tmp_path}/b/two.txt"]
