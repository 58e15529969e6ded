"""Builds the corpus in two phases, with Ray Data.

Each part of the input is read, cleaned and screened by one task. Then duplicates are searched for, by band; and parts
without their duplicates are published as the files of documents. The driver sees counts only. A run that was
interrupted does the pieces that are not complete, and results in the same corpus.
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
_LISTED = 20  # places in quarantine that are shown when there are too many
# Measured with bz2 input on one core of a 2-core machine: MB of stored dump that become documents in a second.
_STORED_MB_PER_CORE_S = 1.2

Values = dict[str, Any]


def plan_corpus(config: BuildCorpusConfig) -> Mapping[str, object]:
    """What a run would read and about how long it takes, after a look into each file.

    Raises:
        InputError: a file is missing, empty, cut short, or not what its source says.
    """
    files = source_files(config)
    megabytes = check_inputs(config, files) / _MB
    for path in config.decontamination.paths if config.decontamination else []:
        for _, uri in evaluation_files(path):
            storage.read_range(uri, 0, 1)  # may be forbidden
    if config.filters.language is not None:
        check_language(config.filters.language)
    _read_tokenizer(config.tokenizer_path)
    near, against = config.duplicates.near, config.decontamination
    unread = unsupported_files(config)
    return {
        "reads": ", ".join(f"{source.name} ({source.kind}): {source.path}" for source in config.sources),
        "bytes": f"{megabytes:,.1f} MB in {len(files):,} files, about {megabytes / config.chunk_mb:,.0f} parts",
        **({"does not read": unread} if unread else {}),
        "duplicates": f"exact {'yes' if config.duplicates.exact else 'no'}, "
        + (f"near from {near.threshold:.0%} in {near.bands} bands" if near else "near no"),
        "decontaminates": f"{against.ngram_words}-grams of {', '.join(against.paths)}" if against else "no",
        "cores": config.ray.num_cpus or "all of the machine or cluster",
        "memory": "about 0.5 GB for each core",
        "estimate": estimated_wall_time(
            megabytes / _STORED_MB_PER_CORE_S, config.ray, "of one core if all were dumps in bz2"
        ),
        "writes": f"{config.run_dir}/{DOCUMENTS_FOLDER}/*.parquet of about {config.file_mb:,.0f} MB, {REPORT_FILE}",
    }


def build_corpus(config: BuildCorpusConfig, folder: RunFolder) -> Outcome:
    """Writes `documents/`, the report and what is in quarantine.

    Raises:
        InputError: an evaluation file cannot be used, or nothing becomes a document.
        DataQualityError: more of a source cannot be read than `fault_tolerance.max_bad_fraction`.
    """
    files = source_files(config)
    parts = plan_chunks(config, files)
    reports = source_reports(config, [file.source for file in files])
    quarantines: list[str] = []
    with ray_session(config.ray):
        screen = _screen(config)
        extracted: list[Values] = []
        for facts in _extract(parts, config, screen):
            reports[facts["source"]].add_chunk(facts)
            extracted.append({name: facts[name] for name in ("number", "source", "documents", "file_bytes")})
            if facts["quarantined"]:
                quarantines.append(quarantine_file(folder.uri, facts["number"]))
        _refuse_bad_sources(config, quarantines, reports)
        groups = plan_groups(extracted, file_bytes=int(config.file_mb * _MB))
        if not groups:
            raise InputError(_nothing_kept(reports))
        _search_duplicates(groups, config, sum(report.read for report in reports))
        outputs: Values = {}
        for facts in _publish(groups, config):
            reports[facts["source"]].add_group(facts)
            outputs.update(facts["outputs"])
    _write_report(folder, config, reports, screen)
    folder.remove_strays(DOCUMENTS_FOLDER, outputs)
    storage.remove_folder(folder.path("work"))
    counts = corpus_counts(reports)
    return Outcome(summary(reports), counts, outputs)


def _screen(config: BuildCorpusConfig) -> ScreeningData:
    against = config.decontamination
    evaluation = read_evaluation_ngrams(against.paths, ngram_words=against.ngram_words) if against else None
    return ScreeningData(evaluation, _read_tokenizer(config.tokenizer_path))


def _read_tokenizer(uri: str | None) -> str | None:
    if uri is None:
        return None
    try:
        text = storage.read_bytes(uri).decode()
        Tokenizer.from_str(text)
    except InputError:  # not permitted
        raise
    except Exception:  # tokenizers raises no other class
        raise InputError(f"{uri}: no tokenizer.json that can be read; correct tokenizer_path") from None
    return text


def _extract(parts: Sequence[Chunk], config: BuildCorpusConfig, screen: ScreeningData) -> Iterator[Values]:
    sizes = {part.number: part.stored_bytes for part in parts}
    return run_pieces(
        [part.to_json() for part in parts],
        functools.partial(_extract_task, config=config, screen=ray.put(screen)),
        CompletedPieces(config.run_dir, "parts"),
        job="build_corpus",
        label="build_corpus",
        unit="bytes",
        size=lambda item: sizes[item["number"]],
        counted="documents",
    )


def _search_duplicates(groups: Sequence[ChunkGroup], config: BuildCorpusConfig, documents: int) -> None:
    parts = ray.put(tuple(part for group in groups for part in group.parts))
    for stage in plan_searches(config, documents):  # what one stage has dropped is no duplicate in the next
        run_pieces(
            [asdict(search) for search in stage],
            functools.partial(_search_task, config=config, parts=parts),
            CompletedPieces(config.run_dir, "searches"),
            job="build_corpus",
            label="build_corpus: duplicates",
            unit="searches",
            counted="dropped",
        )


def _publish(groups: Sequence[ChunkGroup], config: BuildCorpusConfig) -> Iterator[Values]:
    return run_pieces(
        [asdict(group) for group in groups],
        functools.partial(_publish_task, config=config),
        CompletedPieces(config.run_dir, "files"),
        job="build_corpus",
        label="build_corpus: files",
        unit="files",
        counted="documents",
    )


def _extract_task(item: Values, *, config: BuildCorpusConfig, screen: Any) -> Values:
    part = Chunk.from_json(item)
    files = list(dict.fromkeys(each.uri for each in part.ranges))
    for uri in files:  # a source may be an output of another run
        verify_file(uri)
    with reading(", ".join(files[:3])):
        return vars(extract_chunk(part, config, config.run_dir, ray.get(screen)))


def _search_task(item: Values, *, config: BuildCorpusConfig, parts: Any) -> Values:
    return {"dropped": run_search(DuplicateSearch(**item), config, config.run_dir, ray.get(parts))}


def _publish_task(item: Values, *, config: BuildCorpusConfig) -> Values:
    group = ChunkGroup(item["number"], item["source"], tuple(item["parts"]))
    return vars(publish_group(group, config.run_dir, file_bytes=int(config.file_mb * _MB)))


def _refuse_bad_sources(config: BuildCorpusConfig, quarantines: Sequence[str], reports: Sequence[SourceReport]) -> None:
    """Writes the list of what is in quarantine, and fails when it is too much of a source."""
    listed: list[str] = []
    with storage.FileWriter(storage.join(config.run_dir, QUARANTINE_FILE)) as file:
        for uri in quarantines:
            data = storage.read_bytes(uri)
            file.write(data)
            listed += data.decode().splitlines()[: _LISTED - len(listed)]
    limit = config.fault_tolerance.max_bad_fraction
    cut = (
        []
        if config.fault_tolerance.allows_cut_files
        else [report for report in reports if report.quarantined[CUT_SHORT]]
    )
    bad = [report for report in reports if report.bad_fraction > limit or report in cut]
    if bad:
        shares = ", ".join(
            f"{report.name} {report.bad_fraction:.2%}{' and a file that is cut short' * (report in cut)}"
            for report in bad
        )
        raise DataQualityError(
            f"more input is unusable than fault_tolerance.max_bad_fraction={limit:g}: {shares}; all of it is listed in "
            f"{config.run_dir}/{QUARANTINE_FILE}; mend it, or run again with a larger fraction",
            listed,
        )


def _write_report(
    folder: RunFolder, config: BuildCorpusConfig, reports: Sequence[SourceReport], screen: ScreeningData
) -> None:
    unit = "tokens of the tokenizer" if screen.tokenizer_json else "basic tokens (words and signs)"
    report = corpus_report(reports, token_unit=unit, evaluation=screen.evaluation.names if screen.evaluation else ())
    storage.write_bytes(folder.path(REPORT_FILE), report_bytes(report))


def _nothing_kept(reports: Sequence[SourceReport]) -> str:
    return f"sources: {summary(reports)}; give other sources or loosen filters"
