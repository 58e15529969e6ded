"""A corpus of a few documents, taken through the first phase without Ray."""

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
    folder: Path, texts: Sequence[str], screen: ScreeningData | None = None, **values: Any
) -> tuple[BuildCorpusConfig, list[ChunkCounts]]:
    """The texts as files, each in a part of its own, through the first phase."""
    (folder / "texts").mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / f"texts/{number:03d}.txt").write_text(text)
    source = {"kind": "text", "name": "texts", "path": f"{folder}/texts", "document_per": "file"}
    given = {"run_dir": str(folder), "sources": [source], "filters": LENIENT, "chunk_mb": 1e-6, **values}
    config = BuildCorpusConfig.model_validate(given)
    parts = plan_chunks(config, source_files(config))
    return config, [extract_chunk(part, config, config.run_dir, screen or ScreeningData()) for part in parts]


def documents(config: BuildCorpusConfig, facts: Sequence[ChunkCounts]) -> pa.Table:
    """All rows of the files of work."""
    return pa.concat_tables([table for part in facts for table in chunk_tables(config.run_dir, part.number)])
