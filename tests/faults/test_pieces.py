"""Stages that work in pieces: killed workers and drivers, object stores."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pyarrow import fs

from distilray.corpus import pipeline as corpus
from distilray.pretraining_data import encoding
from jobs import build_corpus, encode_corpus
from tests.distilray.corpus.large_dump import write_multistream
from tests.distilray.interruptions import tasks_in_process
from tests.faults.processes import kill, kill_worker, start, wait_for
from tests.tiny.corpus import write_corpus
from tests.tiny.models import write_tokenizer
from tests.tiny.recipes import write_recipe

pytestmark = pytest.mark.slow

FILES = 16  # each is a chunk that takes a quarter of a second because of `dupe_factor`


def completed_chunks(run: Path) -> dict[str, int]:
    """Return the modification times of the records of completed chunks."""
    return {piece.name: piece.stat().st_mtime_ns for piece in run.glob("pieces/chunks/*.json")}


def content_hash(run: Path) -> str:
    return json.loads((run / "manifest.json").read_text())["content_hash"]


@pytest.mark.smoke
def test_a_run_whose_worker_and_driver_were_killed_resumes_and_has_the_same_result(
    tmp_path: Path, root: Path, local_ray: None
) -> None:
    recipe = write_recipe(
        tmp_path,
        run_dir=str(tmp_path / "killed"),
        corpus_dir=write_corpus(tmp_path / "corpus", 500 * FILES, files=FILES),
        tokenizer_dir=write_tokenizer(tmp_path / "tokenizer"),
        max_seq_length=32,
        dupe_factor=10,
        rows_per_shard=10_000,
        chunk_mb=100,
        ray={"num_cpus": 2},
    )
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    job = start(root, "encode_corpus", recipe)
    wait_for(lambda: len(completed_chunks(killed)) >= 2, job)
    kill_worker(job)
    wait_for(lambda: len(completed_chunks(killed)) >= 5, job)
    kill(job)
    before = completed_chunks(killed)
    assert 5 <= len(before) < FILES
    assert not (killed / "manifest.json").exists()
    for run in (killed, undisturbed):
        assert encode_corpus.main(["--recipe", recipe, f"run_dir={run}"]) == 0
    after = completed_chunks(killed)
    assert {name: after[name] for name in before} == before
    assert content_hash(killed) == content_hash(undisturbed)


# An object store. The tasks run in this process.


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Folder with a dump and its index, a corpus and a tokenizer."""
    folder = tmp_path / "inputs"
    write_corpus(folder / "corpus")
    write_tokenizer(folder / "tokenizer")
    write_multistream(folder / "wiki-multistream.xml.bz2", 1)
    return folder


@pytest.mark.parametrize(
    ("job", "pipeline", "values"),
    [
        (
            build_corpus,
            corpus,
            {"sources": [{"path": "INPUTS/wiki-*.xml.bz2"}], "chunk_mb": 0.5, "file_mb": 1, "duplicates": {"near": {}}},
        ),
        (
            encode_corpus,
            encoding,
            {
                "corpus_dir": "INPUTS/corpus",
                "tokenizer_dir": "INPUTS/tokenizer",
                "max_seq_length": 32,
                "rows_per_shard": 40,
                "heldout_fraction": 0.2,
                "chunk_mb": 0.001,
            },
        ),
    ],
    ids=["build_corpus", "encode_corpus"],
)
def test_an_object_store_gives_the_same_outputs_as_a_disk(
    tmp_path: Path, inputs: Path, bucket: str, job: ModuleType, pipeline: ModuleType, values: dict[str, object]
) -> None:
    store, _ = fs.FileSystem.from_uri(bucket)
    fs.copy_files(str(inputs), "data/inputs", destination_filesystem=store)
    recipe, outputs = tmp_path / "recipe.yaml", []
    for folder, filesystem in ((str(tmp_path), fs.LocalFileSystem()), (bucket, store)):
        recipe.write_text(yaml.safe_dump({"run_dir": f"{folder}/run", **values}).replace("INPUTS", f"{folder}/inputs"))
        with tasks_in_process(pipeline):
            assert job.main(["--recipe", str(recipe)]) == 0
        with filesystem.open_input_stream(f"{folder.removeprefix('s3://')}/run/manifest.json") as stream:
            outputs.append(json.loads(stream.read())["content"]["outputs"])
    assert len(outputs[0]) > 1
    assert outputs[1] == outputs[0]
    assert not [file.path for file in store.get_file_info(fs.FileSelector("data/run/work", allow_not_found=True))]
