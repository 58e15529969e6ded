"""Corpus of a few documents."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilray.config.corpus import BuildCorpusConfig
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import DOCUMENTS
from tests.tiny.words import WORDS


def sentences_of(documents: int, *, seed: int = 5) -> list[list[str]]:
    """Documents of 2 to 12 sentences of 3 to 12 words."""
    rng = np.random.default_rng(seed)
    return [
        [" ".join(rng.choice(WORDS, size=rng.integers(3, 13))) + "." for _ in range(rng.integers(2, 13))]
        for _ in range(documents)
    ]


def write_corpus(
    folder: Path,
    documents: int = 40,
    files: int = 3,
    sentences: list[list[str]] | None = None,
    row_group_size: int = 5,
) -> str:
    """A complete run folder of `build_corpus`; its documents are `sentences_of` if none are given."""
    config = BuildCorpusConfig.model_validate({"run_dir": str(folder), "sources": [{"path": "no-dump"}]})
    run = RunFolder("build_corpus", config, {})
    run.begin()
    all_sentences = sentences or sentences_of(documents)
    documents = len(all_sentences)
    outputs = {}
    for number, part in enumerate(np.array_split(np.arange(documents), files)):
        rows = [
            {
                "doc_id": f"test:{row}",
                "source": "test",
                "title": f"T{row}",
                "sentences": all_sentences[row],
                "file": "no-dump",
                "page_id": int(row),
                "revision_id": 1,
                "license": "CC0-1.0",
            }
            for row in part
        ]
        name = f"documents/documents-{number:05d}.parquet"
        (folder / "documents").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS), folder / name, row_group_size=row_group_size)
        outputs[name] = {"rows": len(rows), **run.describe_outputs([name])[name]}
    words = sum(len(sentence.split()) for document in all_sentences for sentence in document)
    run.finish({"documents": documents, "words": words}, outputs, "a corpus")
    return str(folder)
