import json
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from distilray.corpus.chunks import plan_chunks, source_files
from distilray.corpus.decontamination import read_evaluation_ngrams
from distilray.corpus.extraction import ScreeningData, chunk_file, chunk_schema, extract_chunk, quarantine_file
from distilray.schemas import DOCUMENTS
from tests.tiny.dumps import dump, page
from tests.tiny.extraction import documents, extract

DOGS = "The dog barks at the gate. It sleeps in the shade of the old tree by the river when it rains."
SHIPS = "A ship came in. Nobody was at the helm of it."


def test_each_document_read_is_kept_or_dropped(tmp_path: Path) -> None:
    _, counts = extract(tmp_path, [DOGS, "One.", "Two words.", SHIPS], filters={"min_words": 5, "min_sentences": 0})
    assert sum(chunk.read for chunk in counts) == 4
    assert sum(chunk.documents for chunk in counts) == 2
    assert sum((chunk.dropped["too_short"] for chunk in counts), 0) == 2


def test_a_document_is_stored_with_its_counts(tmp_path: Path) -> None:
    rows = documents(*extract(tmp_path, [SHIPS, "The dog | ran to () it."])).to_pylist()
    assert [row["doc_id"] for row in rows] == ["texts:000.txt", "texts:001.txt"]
    assert rows[0]["sentences"] == ["A ship came in.", "Nobody was at the helm of it."]
    numbers = [[row[name] for name in ("words", "tokens", "residue", "holes")] for row in rows]
    assert numbers == [[11, 13, 0, 0], [7, 9, 1, 1]]


def test_tokens_are_those_of_the_tokenizer_in_the_recipe(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # full stops are no tokens of their own
    row = documents(*extract(tmp_path, [SHIPS], ScreeningData(tokenizer_json=tokenizer.to_str()))).to_pylist()[0]
    assert row["tokens"] == len(SHIPS.split())


def jsonl(folder: Path, *lines: str) -> dict[str, str]:
    """Write a file of JSON lines and return the source that reads it."""
    (folder / "own.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return {"kind": "jsonl", "name": "own", "path": f"{folder}/own.jsonl"}


def test_text_keys_ignore_the_case_and_id_keys_do_not(tmp_path: Path) -> None:
    rows = [(SHIPS, "a_b"), (SHIPS.upper(), "a-b"), (DOGS, "A b")]
    source = jsonl(tmp_path, *(json.dumps({"text": text, "id": name}) for text, name in rows))
    table = documents(*extract(tmp_path, [], sources=[{**source, "id_column": "id"}], chunk_mb=1))
    keys = table["text_key"].to_pylist()
    assert keys[0] == keys[1] != keys[2]
    assert len(set(table["id_key"].to_pylist())) == 3


def test_keys_of_near_duplicates_are_stored_when_they_are_searched_for(tmp_path: Path) -> None:
    config, counts = extract(tmp_path, [SHIPS], duplicates={"near": {"bands": 3, "rows_per_band": 2}})
    table = documents(config, counts)
    assert table.schema.equals(chunk_schema(config))
    assert [name for name in table.schema.names if name.startswith("band")] == ["band_00", "band_01", "band_02"]
    assert len(table["signature"][0].as_py()) == 6


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    file = tmp_path / "RTE" / "dev.tsv"
    file.parent.mkdir()
    file.write_text("index\tsentence\n0\tIt sleeps in the shade of the old tree by the river when it snows\n")
    return file.parent


@pytest.mark.parametrize(("drop", "remaining"), [("document", []), ("sentence", ["The dog barks at the gate."])])
def test_sentences_of_an_evaluation_set_are_dropped(
    tmp_path: Path, evaluation: Path, drop: str, remaining: list[str]
) -> None:
    screening = ScreeningData(read_evaluation_ngrams([str(evaluation)], ngram_words=13))
    against = {"paths": [str(evaluation)], "drop": drop}
    config, counts = extract(tmp_path, [SHIPS, DOGS], screening, decontamination=against)
    sentences = [sentence for document in documents(config, counts)["sentences"].to_pylist() for sentence in document]
    assert sentences == ["A ship came in.", "Nobody was at the helm of it.", *remaining]
    assert [chunk.contaminated for chunk in counts] == [{}, {"RTE": 1}]
    assert (counts[1].dropped or counts[1].sentences_dropped)["contaminated"] == 1


def test_the_filters_apply_again_to_the_sentences_that_remain(tmp_path: Path, evaluation: Path) -> None:
    screening = ScreeningData(read_evaluation_ngrams([str(evaluation)], ngram_words=13))
    against = {"paths": [str(evaluation)], "drop": "sentence"}
    filters = {"min_words": 0, "min_sentences": 2}
    _, [counts] = extract(tmp_path, [DOGS], screening, decontamination=against, filters=filters)
    assert (counts.documents, counts.dropped) == (0, {"too_few_sentences": 1})


def test_a_quarantine_entry_is_listed_and_counted(tmp_path: Path) -> None:
    source = jsonl(tmp_path, json.dumps({"text": SHIPS}), '{"text": ')
    config, counts = extract(tmp_path, [], sources=[source], chunk_mb=1)
    assert (counts[0].refused, counts[0].documents, counts[0].lost_bytes) == (1, 1, 0)
    listed = json.loads(Path(quarantine_file(config.run_dir, 0)).read_text())
    assert (listed["file"], listed["reason"], listed["offset"]) == ("own.jsonl", "json_malformed", 58)


def test_sentences_with_a_hole_are_dropped_for_its_reason(tmp_path: Path) -> None:
    text = "Dogs bark. It meets {{jct|NY}} or {{jct|NJ}}. It is &lt;math>x&lt;/math> long. The {{GS|U-47}} sank."
    (tmp_path / "dump.xml").write_bytes(dump(page(1, "A", text)))
    source = {"path": f"{tmp_path}/dump.xml", "templates": {"GS": "submarine {1}"}}
    config, counts = extract(tmp_path, [], sources=[source], chunk_mb=1)
    [row] = documents(config, counts).select(DOCUMENTS.names).to_pylist()
    assert row == {
        **{"doc_id": "wikipedia:1", "source": "wikipedia", "title": "A", "file": "dump.xml"},
        **{"page_id": 1, "revision_id": 101, "license": "CC-BY-SA-4.0"},
        "sentences": ["Dogs bark.", "The submarine U-47 sank."],
    }
    assert counts[0].text_bytes == len(text.replace("&lt;", "<"))
    assert counts[0].sentences_dropped == {"unknown_template": 1, "formula_or_code": 1}
    assert counts[0].unknown_templates == {"jct": 2}


def test_the_file_of_a_chunk_is_reproducible_and_its_size_is_counted(tmp_path: Path) -> None:
    runs = [extract(tmp_path / name, [SHIPS, DOGS], duplicates={"near": {}}) for name in ("a", "b")]
    for number in range(2):
        first, again = (Path(chunk_file(config.run_dir, number)).read_bytes() for config, _ in runs)
        assert first == again
        assert runs[0][1][number].file_bytes == len(first)


def test_the_time_of_each_step_is_counted(tmp_path: Path) -> None:
    config, _ = extract(tmp_path, [SHIPS])
    chunk = plan_chunks(config, source_files(config))[0]
    counts = extract_chunk(chunk, config, config.run_dir, ScreeningData(), clock=partial(next, count()))
    assert counts.seconds == {"read": 2, "clean": 1, "split": 1, "filter": 1, "count": 1, "write": 1}
