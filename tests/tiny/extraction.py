"""Corpus of a few documents, extracted without Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.chunks import plan_chunks, source_files
from distilray.corpus.duplicate_search import chunk_tables
from distilray.corpus.extraction import ChunkCounts, ScreeningData, extract_chunk

LENIENT = {"min_words": 0, "min_sentences": 0, "max_repeated_fraction": 1.0}


def extract(
    folder: Path, texts: Sequence[str], screening: ScreeningData | None = None, **values: Any
) -> tuple[BuildCorpusConfig, list[ChunkCounts]]:
    """Extract texts from files, each in its own chunk."""
    (folder / "texts").mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / f"texts/{number:03d}.txt").write_text(text)
    source = {"kind": "text", "name": "texts", "path": f"{folder}/texts", "document_per": "file"}
    recipe = {"run_dir": str(folder), "sources": [source], "filters": LENIENT, "chunk_mb": 1e-6, **values}
    config = BuildCorpusConfig.model_validate(recipe)
    chunks = plan_chunks(config, source_files(config))
    return config, [extract_chunk(chunk, config, config.run_dir, screening or ScreeningData()) for chunk in chunks]


def documents(config: BuildCorpusConfig, counts: Sequence[ChunkCounts]) -> pa.Table:
    """Return all rows of the work files."""
    return pa.concat_tables([table for chunk in counts for table in chunk_tables(config.run_dir, chunk.number)])
