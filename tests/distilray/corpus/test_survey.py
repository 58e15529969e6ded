"""Survey of unknown text: kind, columns, language and size of files."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.corpus.survey import survey_text
from distilray.errors import InputError
from tests.tiny.dumps import dump, page

SENTENCES = [
    "The river rises in the hills behind the old town and reaches the sea after forty miles.",
    "Nobody in the village remembers when the last train stopped at the station.",
    "She wrote that the winter had been mild and that the roads were open again.",
    "Most of the letters were found in a drawer, where they had been kept for years.",
]
GERMAN = [
    "Der Fluss entspringt in den Hügeln hinter der alten Stadt und erreicht nach sechzig Kilometern das Meer.",
    "Niemand im Dorf erinnert sich daran, wann der letzte Zug an dem kleinen Bahnhof gehalten hat.",
]
DOCUMENTS = [" ".join(f"{sentence} ({number})" for sentence in SENTENCES) for number in range(60)]


def wrapped(documents: list[str]) -> str:
    """Return documents with lines of about 60 characters, separated by blank lines."""
    lines: list[str] = []
    for document in documents:
        line = ""
        for word in document.split():
            if len(line) + len(word) > 60:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines += [line, ""]
    return "\n".join(lines)


def json_lines(key: str) -> str:
    return "".join(json.dumps({"id": str(n), key: text}) + "\n" for n, text in enumerate(DOCUMENTS))


def separated(delimiter: str, column: str) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([["no", column], *([n, text] for n, text in enumerate(DOCUMENTS))])
    return file.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"url": ["http://a/b"] * len(DOCUMENTS), "story": DOCUMENTS, "stars": list(range(len(DOCUMENTS)))})
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


FILES: dict[str, tuple[dict[str, str | bytes], dict[str, object]]] = {
    "lines": ({"a.txt": "\n".join(DOCUMENTS)}, {"kind": "text", "document_per": "line"}),
    "blocks": ({"a.txt": "\n\n".join(d.replace(") ", ")\n") for d in DOCUMENTS)}, {"document_per": "blank_line"}),
    "wrapped": ({"a.txt": wrapped(DOCUMENTS)}, {"document_per": "blank_line", "hard_wrapped": True}),
    "small files": ({f"{n}.txt": text for n, text in enumerate(DOCUMENTS)}, {"kind": "text", "document_per": "file"}),
    "books": ({f"{n}.txt": wrapped(DOCUMENTS * 3) for n in range(20)}, {"kind": "books"}),
    "a book": ({"a.txt": wrapped(DOCUMENTS * 3)}, {"document_per": "blank_line", "hard_wrapped": True}),
    "markdown, readme": (
        {"a.md": "\n\n".join(DOCUMENTS[:30]), "README": "\n\n".join(DOCUMENTS[30:])},
        {"kind": "text"},
    ),
    "latin-1": ({f"{n}.txt": f"Café. {text}".encode("latin-1") for n, text in enumerate(DOCUMENTS)}, {"kind": "text"}),
    "jsonl": ({"a.jsonl": json_lines("text")}, {"kind": "jsonl", "text_column": "text"}),
    "jsonl, other key": ({"a.jsonl": json_lines("review")}, {"kind": "jsonl", "text_column": "review"}),
    "jsonl.gz": ({"a.jsonl.gz": gzip.compress(json_lines("body").encode())}, {"kind": "jsonl", "text_column": "body"}),
    "csv": ({"a.csv": separated(",", "content")}, {"kind": "csv", "text_column": "content"}),
    "csv, semicolons": ({"a.csv": separated(";", "remark")}, {"delimiter": ";", "text_column": "remark"}),
    "tsv": ({"a.tsv": separated("\t", "remark")}, {"kind": "csv", "text_column": "remark"}),
    "parquet": ({"a.parquet": parquet()}, {"kind": "parquet", "text_column": "story"}),
    "dump": ({"a.xml": dump(*(page(n, f"T{n}", text) for n, text in enumerate(DOCUMENTS, 1)))}, {"kind": "wikipedia"}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, str | bytes]], str]:
    def write(files: dict[str, str | bytes]) -> str:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path)

    return write


@pytest.mark.parametrize("name", FILES)
def test_kind_and_columns_are_detected(name, folder):
    files, expected = FILES[name]
    survey = survey_text(folder(files))
    (surveyed,) = survey.sources
    settings = surveyed.source.model_dump()
    assert {key: settings[key] for key in expected} == expected
    assert (surveyed.files, survey.language) == (len(files), "en")


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".gz")])
def test_the_size_of_the_text_is_estimated(name, folder):
    copies = {"books": 3 * 20, "a book": 3}.get(name, 1)
    survey = survey_text(folder(FILES[name][0]))
    assert survey.text_bytes == pytest.approx(copies * len(" ".join(DOCUMENTS)), rel=0.3)
    if name != "books":
        assert survey.documents == pytest.approx(copies * len(DOCUMENTS), rel=0.3)


def test_only_the_text_column_of_a_large_table_counts(folder):
    rows = "".join(f'{n},{"0123456789" * 40},"{text}"\n' for n, text in enumerate(DOCUMENTS * 20))
    survey = survey_text(folder({"a.csv": f"no,code,text\n{rows}"}))
    assert survey.text_bytes == pytest.approx(20 * len(" ".join(DOCUMENTS)), rel=0.1)


def test_a_folder_may_have_several_kinds_and_other_files(folder):
    survey = survey_text(folder({**FILES["jsonl"][0], **FILES["lines"][0], "scan.pdf": b"%PDF-", "empty.csv": ""}))
    assert [source.source.kind for source in survey.sources] == ["jsonl", "text"]
    assert survey.skipped == {".pdf": 1, "empty": 1}


def test_a_small_file_that_cannot_be_read_is_reported_and_a_large_one_refused(folder):
    files = {**FILES["lines"][0], "package.json": "{\n}\n", "program": b"\x7fELF\0"}
    skipped = survey_text(folder(files)).skipped
    assert skipped["binary"] == 1
    assert any("package.json: no JSON object" in reason for reason in skipped)
    with pytest.raises(InputError, match=r"package\.json: .*name the other files with a pattern"):
        survey_text(folder({**files, "package.json": "{\n" + " " * 100_000 + "}"}))


def test_a_file_of_any_name_is_text_if_it_is_named_itself(folder):
    path = folder({"app.log": "\n".join(DOCUMENTS)})
    assert survey_text(f"{path}/app.log").sources[0].source.kind == "text"
    with pytest.raises(InputError, match=r"1 \.log"):
        survey_text(path)


def test_the_language_is_that_of_most_documents(folder):
    survey = survey_text(folder({"a.txt": "\n".join(GERMAN * 3 + SENTENCES[:2])}))
    assert (survey.language, survey.language_share) == ("de", 0.75)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.pdf": b"%PDF-"}, "convert it to plain text"),
        ({"a.dat": b"x"}, "no text in 1 file"),
        ({"a.jsonl": '{"n": 1}\n'}, "no column with text"),
        ({"a.jsonl": "[1, 2]\n"}, "no JSON object"),
        ({"a.txt": b"caf\xe9 au lait\n" * 30}, "iconv -f cp1252"),
        ({"a.txt": b"\0\1\2" * 999}, "not text"),
        ({"a.txt": "one two " * 200_000}, "a single line of 1.6 MB .*fold"),
        ({"a.txt": b"\x1f\x8b\x08data"}, "rename it to end in .gz"),
        ({"a.txt": ""}, "no text in 1 file"),
    ],
)
def test_files_without_text_are_refused_with_a_fix(files, message, folder):
    with pytest.raises(InputError, match=message):
        survey_text(folder(files))
