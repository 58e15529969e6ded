"""Corpus building with Ray: plan and driver of `jobs.build_corpus`.

One task per chunk of input reads, cleans and filters its documents. Duplicates are then searched across all chunks, and
the remaining documents are published. The driver only handles counts. An interrupted run resumes with its incomplete
pieces and produces the same corpus.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
from tokenizers import Tokenizer

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.chunks import Chunk, check_inputs, plan_chunks, source_files, unsupported_files
from distilray.corpus.decontamination import evaluation_files, read_evaluation_ngrams
from distilray.corpus.duplicate_search import DuplicateSearch, plan_searches, run_search
from distilray.corpus.extraction import ScreeningData, extract_chunk, quarantine_file
from distilray.corpus.filters import check_language
from distilray.corpus.publication import DOCUMENTS_FOLDER, ChunkGroup, plan_groups, publish_group
from distilray.corpus.report import SourceReport, corpus_counts, corpus_report, report_bytes, source_reports, summary
from distilray.errors import DataQualityError, InputError, reading
from distilray.formats.streams import CUT_SHORT
from distilray.runtime import storage
from distilray.runtime.job import Outcome, estimated_wall_time
from distilray.runtime.outputs import verify_file
from distilray.runtime.pieces import CompletedPieces, run_pieces
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session

REPORT_FILE = "corpus_report.json"
QUARANTINE_FILE = "quarantine.jsonl"
_MB = 1 << 20
_MAX_LISTED = 20  # quarantine entries shown in the error message
# MB of stored dump processed per core and second, measured with bz2 input on a 2-core machine.
_STORED_MB_PER_CORE_S = 1.2

JsonObject = dict[str, Any]


def plan_corpus(config: BuildCorpusConfig) -> Mapping[str, object]:
    """Check the start of each input file and return the plan of the run: input, settings and estimated time.

    Raises:
        InputError: if a file is missing, empty, truncated, or does not match the kind of its source.
    """
    files = source_files(config)
    megabytes = check_inputs(config, files) / _MB
    for path in config.decontamination.paths if config.decontamination else []:
        for _, uri in evaluation_files(path):
            storage.read_range(uri, 0, 1)  # fails if access is denied
    if config.filters.language is not None:
        check_language(config.filters.language)
    _read_tokenizer(config.tokenizer_path)
    near, decontamination = config.duplicates.near, config.decontamination
    unsupported = unsupported_files(config)
    return {
        "reads": ", ".join(f"{source.name} ({source.kind}): {source.path}" for source in config.sources),
        "bytes": f"{megabytes:,.1f} MB in {len(files):,} files, about {megabytes / config.chunk_mb:,.0f} chunks",
        **({"does not read": unsupported} if unsupported else {}),
        "duplicates": f"exact: {'yes' if config.duplicates.exact else 'no'}; "
        + (f"near: at least {near.threshold:.0%} similar, {near.bands} bands" if near else "near: no"),
        "decontaminates": f"{decontamination.ngram_words}-grams of {', '.join(decontamination.paths)}"
        if decontamination
        else "no",
        "cores": config.ray.num_cpus or "all of the machine or cluster",
        "memory": "about 0.5 GB per core",
        "estimate": estimated_wall_time(
            megabytes / _STORED_MB_PER_CORE_S, config.ray, "on one core, if all input is bz2 dumps"
        ),
        "writes": f"{config.run_dir}/{DOCUMENTS_FOLDER}/*.parquet of about {config.file_mb:,.0f} MB, {REPORT_FILE}",
    }


def build_corpus(config: BuildCorpusConfig, folder: RunFolder) -> Outcome:
    """Write `documents/`, the report and the quarantine.

    Raises:
        InputError: if an evaluation file cannot be used, or no document is kept.
        DataQualityError: if the unreadable fraction of a source exceeds `fault_tolerance.max_bad_fraction`.
    """
    files = source_files(config)
    chunks = plan_chunks(config, files)
    reports = source_reports(config, [file.source for file in files])
    quarantines: list[str] = []
    with ray_session(config.ray):
        screening = _screening_data(config)
        extracted: list[JsonObject] = []
        for record in _extract(chunks, config, screening):
            reports[record["source"]].add_chunk(record)
            extracted.append({name: record[name] for name in ("number", "source", "documents", "file_bytes")})
            if record["quarantined"]:
                quarantines.append(quarantine_file(folder.uri, record["number"]))
        _check_quarantine(config, quarantines, reports)
        groups = plan_groups(extracted, file_bytes=int(config.file_mb * _MB))
        if not groups:
            raise InputError(f"sources: {summary(reports)}; add other sources or relax filters")
        _search_duplicates(groups, config, sum(report.read for report in reports))
        outputs: JsonObject = {}
        for record in _publish(groups, config):
            reports[record["source"]].add_group(record)
            outputs.update(record["outputs"])
    _write_report(folder, reports, screening)
    folder.remove_leftovers(DOCUMENTS_FOLDER, outputs)
    storage.remove_folder(folder.path("work"))
    return Outcome(summary(reports), corpus_counts(reports), outputs)


def _screening_data(config: BuildCorpusConfig) -> ScreeningData:
    settings = config.decontamination
    evaluation = read_evaluation_ngrams(settings.paths, ngram_words=settings.ngram_words) if settings else None
    return ScreeningData(evaluation, _read_tokenizer(config.tokenizer_path))


def _read_tokenizer(uri: str | None) -> str | None:
    if uri is None:
        return None
    try:
        text = storage.read_bytes(uri).decode()
        Tokenizer.from_str(text)
    except InputError:  # access denied
        raise
    except Exception:  # tokenizers raises plain Exception
        raise InputError(f"{uri}: not a readable tokenizer.json; correct tokenizer_path") from None
    return text


def _extract(chunks: Sequence[Chunk], config: BuildCorpusConfig, screening: ScreeningData) -> Iterator[JsonObject]:
    sizes = {chunk.number: chunk.stored_bytes for chunk in chunks}
    return run_pieces(
        [chunk.to_json() for chunk in chunks],
        functools.partial(_extract_task, config=config, screening=ray.put(screening)),
        CompletedPieces(config.run_dir, "chunks"),
        job="build_corpus",
        label="build_corpus",
        unit="bytes",
        size=lambda item: sizes[item["number"]],
        count_key="documents",
    )


def _search_duplicates(groups: Sequence[ChunkGroup], config: BuildCorpusConfig, documents: int) -> None:
    chunks = ray.put(tuple(chunk for group in groups for chunk in group.chunks))
    for stage in plan_searches(config, documents):
        run_pieces(
            [asdict(search) for search in stage],
            functools.partial(_search_task, config=config, chunks=chunks),
            CompletedPieces(config.run_dir, "searches"),
            job="build_corpus",
            label="build_corpus: duplicates",
            unit="searches",
            count_key="dropped",
        )


def _publish(groups: Sequence[ChunkGroup], config: BuildCorpusConfig) -> Iterator[JsonObject]:
    return run_pieces(
        [asdict(group) for group in groups],
        functools.partial(_publish_task, config=config),
        CompletedPieces(config.run_dir, "files"),
        job="build_corpus",
        label="build_corpus: files",
        unit="files",
        count_key="documents",
    )


def _extract_task(item: JsonObject, *, config: BuildCorpusConfig, screening: Any) -> JsonObject:
    chunk = Chunk.from_json(item)
    files = list(dict.fromkeys(file_range.uri for file_range in chunk.ranges))
    for uri in files:  # a source may be the output of another run
        verify_file(uri)
    with reading(", ".join(files[:3])):
        return vars(extract_chunk(chunk, config, config.run_dir, ray.get(screening)))


def _search_task(item: JsonObject, *, config: BuildCorpusConfig, chunks: Any) -> JsonObject:
    return {"dropped": run_search(DuplicateSearch(**item), config, config.run_dir, ray.get(chunks))}


def _publish_task(item: JsonObject, *, config: BuildCorpusConfig) -> JsonObject:
    group = ChunkGroup(item["number"], item["source"], tuple(item["chunks"]))
    return vars(publish_group(group, config.run_dir, file_bytes=int(config.file_mb * _MB)))


def _check_quarantine(config: BuildCorpusConfig, quarantines: Sequence[str], reports: Sequence[SourceReport]) -> None:
    """Merge the quarantines of all chunks into one file, and check the unreadable fraction of each source.

    Raises:
        DataQualityError: if the unreadable fraction of a source exceeds the limit, or a file is truncated.
    """
    listed: list[str] = []
    with storage.FileWriter(storage.join(config.run_dir, QUARANTINE_FILE)) as file:
        for uri in quarantines:
            data = storage.read_bytes(uri)
            file.write(data)
            listed += data.decode().splitlines()[: _MAX_LISTED - len(listed)]
    limit = config.fault_tolerance.max_bad_fraction
    allows_truncated = config.fault_tolerance.allows_truncated_files
    truncated = [report for report in reports if report.quarantined[CUT_SHORT] and not allows_truncated]
    bad = [report for report in reports if report.bad_fraction > limit or report in truncated]
    if bad:
        fractions = ", ".join(
            f"{report.name} {report.bad_fraction:.2%}{' and a truncated file' * (report in truncated)}"
            for report in bad
        )
        raise DataQualityError(
            f"more input is unusable than fault_tolerance.max_bad_fraction={limit:g} allows: {fractions}; fix the "
            f"entries of {config.run_dir}/{QUARANTINE_FILE}, or run again with a larger fraction",
            listed,
        )


def _write_report(folder: RunFolder, reports: Sequence[SourceReport], screening: ScreeningData) -> None:
    unit = "tokens of the tokenizer" if screening.tokenizer_json else "basic tokens (words and punctuation)"
    sets = screening.evaluation.names if screening.evaluation else ()
    report = corpus_report(reports, token_unit=unit, evaluation=sets)
    storage.write_bytes(folder.path(REPORT_FILE), report_bytes(report))
