"""Builds the corpus: dumps are read as a stream, cleaned on all cores, and written as Parquet files of documents.

One task reads a dump while others clean what it has read. One reader feeds about twenty cleaners: the dumps of a
recipe follow each other, so the order of the documents is that of the dumps whatever the number of CPUs.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import pyarrow as pa
import ray.data

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.documents import DumpFile, clean_pages, page_tables
from distilray.corpus.inputs import check_dump, dump_files
from distilray.corpus.output import CorpusWriter
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.progress import Progress, duration
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session

_MB = 1 << 20
# Ray holds back what a task yields until a block has this size; small, so that cleaning starts with the first pages.
_BLOCK_BYTES = 1 << 20
# Measured with bz2 input on one core of a 2-core machine: MB of stored dump read, cleaned and written in a second.
_STORED_MB_PER_CORE_S = 0.35


def plan_corpus(config: BuildCorpusConfig) -> Mapping[str, object]:
    """What a run would read and about how long it takes, after a look at the head of each dump.

    Raises:
        InputError: a dump is missing, empty, or no dump.
    """
    dumps = dump_files(config)
    for dump in dumps:
        check_dump(dump)
    stored_mb = _stored_bytes(dumps) / _MB
    cores = config.ray.num_cpus
    work = f"about {duration(stored_mb / _STORED_MB_PER_CORE_S)} of one core if the dumps are bz2"
    return {
        "reads": ", ".join(dump.uri for dump in dumps),
        "bytes": f"{stored_mb:,.1f} MB in {len(dumps)} files",
        "cores": cores or "all of the machine or cluster",
        "estimate": work,
        "writes": f"{config.run_dir}/documents/*.parquet, {config.documents_per_file:,} documents each",
    }


def build_corpus(config: BuildCorpusConfig, folder: RunFolder) -> Outcome:
    """Writes `documents/documents-00000.parquet` and so on; a run that was cut off is started afresh.

    Raises:
        InputError: a dump cannot be read to its end, or no page of it becomes a document.
    """
    dumps = dump_files(config)
    storage.remove_folder(folder.path("documents"))
    storage.make_folder(folder.path("documents"))
    writer = CorpusWriter(folder.uri, documents_per_file=config.documents_per_file)
    total_mb = max(1, _stored_bytes(dumps) // _MB)
    with ray_session(config.ray), Progress("build_corpus", total=total_mb, unit="MB") as progress:
        for outcomes in _cleaned(dumps, config):
            writer.add(outcomes)
            if outcomes.num_rows:
                done_mb = outcomes["stored_bytes"][-1].as_py() // _MB
                progress.advance_to(min(total_mb, done_mb), f"{writer.documents:,} documents")
    return writer.finish()


def _cleaned(dumps: list[DumpFile], config: BuildCorpusConfig) -> Iterator[pa.Table]:
    with _small_blocks():
        pages = ray.data.from_items([asdict(dump) for dump in dumps], override_num_blocks=len(dumps)).map_batches(
            functools.partial(_read, pages_per_block=config.pages_per_block, max_page_mb=config.max_page_mb),
            batch_format="pyarrow",
            batch_size=1,
            # A task of its own, which Ray does not fuse with the cleaning; it takes no CPU from the cleaning, so that
            # one core suffices for both.
            num_cpus=0,
            concurrency=1,
        )
        cleaned = pages.map_batches(
            clean_pages,
            fn_kwargs={"filters": config.filters},
            batch_format="pyarrow",
            batch_size=config.pages_per_block,
        )
    yield from cleaned.iter_batches(batch_size=None, batch_format="pyarrow")


def _read(rows: pa.Table, *, pages_per_block: int, max_page_mb: float) -> Iterator[pa.Table]:
    for row in rows.to_pylist():
        yield from page_tables(DumpFile(**row), pages_per_table=pages_per_block, max_page_bytes=int(max_page_mb * _MB))


@contextlib.contextmanager
def _small_blocks() -> Iterator[None]:
    context = ray.data.DataContext.get_current()
    before, context.target_max_block_size = context.target_max_block_size, _BLOCK_BYTES
    try:
        yield
    finally:
        context.target_max_block_size = before


def _stored_bytes(dumps: list[DumpFile]) -> int:
    return sum(storage.file_size(dump.uri) or 0 for dump in dumps)
