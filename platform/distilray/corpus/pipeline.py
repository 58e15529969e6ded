"""Builds the corpus in two phases, with Ray Data.

Each part of the input is read, cleaned and screened by one task, which marks it as done. Then duplicates are searched
for, by band; and parts without their duplicates are published as the files of documents. The driver sees counts only.
A run that was cut off does what has no mark yet, and comes to the same corpus.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
from tokenizers import Tokenizer

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.documents import Screen, extract_part
from distilray.corpus.inputs import Part, check_inputs, plan_parts, source_files, unread_formats
from distilray.corpus.ledger import DOCUMENTS_FOLDER, Ledger
from distilray.corpus.matching import Search, plan_searches, run_search
from distilray.corpus.publication import Group, plan_groups, publish_group
from distilray.corpus.report import SourceReport, corpus_counts, corpus_report, report_bytes, source_reports, summary
from distilray.corpus.screening.contamination import read_evaluation_ngrams
from distilray.corpus.screening.evaluation_files import evaluation_files
from distilray.corpus.screening.languages import check_language
from distilray.corpus.sources.ranges import CUT_SHORT
from distilray.errors import DataQualityError, InputError, reading
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.outputs import verify_file
from distilray.runtime.reporting.progress import Progress, duration
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session, run_tasks

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
    unread = unread_formats(config)
    return {
        "reads": ", ".join(f"{source.name} ({source.kind}): {source.path}" for source in config.sources),
        "bytes": f"{megabytes:,.1f} MB in {len(files):,} files, about {megabytes / config.part_mb:,.0f} parts",
        **({"does not read": unread} if unread else {}),
        "duplicates": f"exact {'yes' if config.duplicates.exact else 'no'}, "
        + (f"near from {near.threshold:.0%} in {near.bands} bands" if near else "near no"),
        "decontaminates": f"{against.ngram_words}-grams of {', '.join(against.paths)}" if against else "no",
        "cores": config.ray.num_cpus or "all of the machine or cluster",
        "memory": "about 0.5 GB for each core",
        "estimate": f"about {duration(megabytes / _STORED_MB_PER_CORE_S)} of one core if all were dumps in bz2",
        "writes": f"{config.run_dir}/{DOCUMENTS_FOLDER}/*.parquet of about {config.file_mb:,.0f} MB, {REPORT_FILE}",
    }


def build_corpus(config: BuildCorpusConfig, folder: RunFolder) -> Outcome:
    """Writes `documents/`, the report and what is in quarantine.

    Raises:
        InputError: an evaluation file cannot be used, or nothing becomes a document.
        DataQualityError: more of a source cannot be read than `faults.max_bad_fraction`.
    """
    files = source_files(config)
    parts = plan_parts(config, files)
    ledger = Ledger(folder.uri)
    ledger.begin()
    reports = source_reports(config, [file.source for file in files])
    with ray_session(config.ray):
        screen = _screen(config)
        _extract(parts, config, ledger, screen)
        numbers = [part.number for part in parts]
        marks: list[Values] = []
        for facts in ledger.facts("parts", numbers):
            reports[facts["source"]].add_part(facts)
            marks.append({name: facts[name] for name in ("number", "source", "documents", "file_bytes")})
        _refuse_bad_sources(config, ledger, numbers, reports)
        groups = plan_groups(marks, file_bytes=int(config.file_mb * _MB))
        _publish(groups, config, ledger, sum(report.read for report in reports))
    outputs: Values = {}
    for facts in ledger.facts("files", [group.number for group in groups]):
        reports[facts["source"]].add_group(facts)
        outputs.update(facts["outputs"])
    if not outputs:
        raise InputError(_nothing_kept(reports))
    _write_report(folder, config, reports, screen)
    folder.remove_strays(DOCUMENTS_FOLDER, outputs)
    ledger.remove_work()
    counts = corpus_counts(reports)
    return Outcome(summary(reports), counts, outputs)


def _screen(config: BuildCorpusConfig) -> Screen:
    against = config.decontamination
    evaluation = read_evaluation_ngrams(against.paths, ngram_words=against.ngram_words) if against else None
    return Screen(evaluation, _read_tokenizer(config.tokenizer_path))


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


def _extract(parts: Sequence[Part], config: BuildCorpusConfig, ledger: Ledger, screen: Screen) -> None:
    done = ledger.done("parts")
    waiting = [part for part in parts if part.number not in done]
    sizes = {part.number: part.stored_bytes for part in parts}
    total = sum(sizes.values())
    finished = total - sum(part.stored_bytes for part in waiting)
    documents = 0
    unit, size = ("MB", _MB) if total > 100 * _MB else ("kB", 1 << 10)
    with Progress("build_corpus", total=max(1, total // size), unit=unit) as progress:
        progress.start_at(finished // size)
        run = functools.partial(_extract_task, config=config, folder=ledger.folder, screen=ray.put(screen))
        items = [part.to_json() for part in waiting]
        for result in run_tasks(items, run, job="build_corpus", run_dir=ledger.folder):
            finished += sizes[result["number"]]
            documents += result["documents"]
            progress.advance_to(finished // size, f"{documents:,} documents")


def _publish(groups: Sequence[Group], config: BuildCorpusConfig, ledger: Ledger, documents: int) -> None:
    done = ledger.done("files")
    waiting = [group for group in groups if group.number not in done]
    if not waiting:
        return
    stages = plan_searches(config, documents)
    steps = sum(map(len, stages)) + len(groups)
    searches = [[each for each in stage if not storage.exists(ledger.duplicates_file(each.name))] for stage in stages]
    finished = steps - sum(map(len, searches)) - len(waiting)
    parts = ray.put(tuple(part for group in groups for part in group.parts))
    with Progress("build_corpus: duplicates and files", total=steps, unit="steps") as progress:
        progress.start_at(finished)
        search_parts = functools.partial(_search_task, config=config, folder=ledger.folder, parts=parts)
        for stage in searches:  # one after another: what one stage has dropped is no duplicate in the next
            items = [asdict(search) for search in stage]
            for _ in run_tasks(items, search_parts, job="build_corpus", run_dir=ledger.folder):
                progress.advance_to(finished := finished + 1)
        publish = functools.partial(_publish_task, folder=ledger.folder, file_bytes=int(config.file_mb * _MB))
        items = [asdict(group) for group in waiting]
        for result in run_tasks(items, publish, job="build_corpus", run_dir=ledger.folder):
            progress.advance_to(finished := finished + 1, f"file {result['number']} written")


def _extract_task(item: Values, *, config: BuildCorpusConfig, folder: str, screen: Any) -> Values:
    part = Part.from_json(item)
    files = list(dict.fromkeys(each.uri for each in part.ranges))
    for uri in files:  # a source may be an output of another run
        verify_file(uri)
    with reading(", ".join(files[:3])):
        facts = extract_part(part, config, folder, ray.get(screen))
    return {"number": facts.number, "documents": facts.documents}


def _search_task(item: Values, *, config: BuildCorpusConfig, folder: str, parts: Any) -> Values:
    return {"found": run_search(Search(**item), config, folder, ray.get(parts))}


def _publish_task(item: Values, *, folder: str, file_bytes: int) -> Values:
    group = Group(item["number"], item["source"], tuple(item["parts"]))
    return {"number": publish_group(group, folder, file_bytes=file_bytes).number}


def _refuse_bad_sources(
    config: BuildCorpusConfig, ledger: Ledger, parts: Sequence[int], reports: Sequence[SourceReport]
) -> None:
    """Writes the list of what is in quarantine, and fails when it is too much of a source."""
    listed: list[str] = []
    with storage.FileWriter(storage.join(ledger.folder, QUARANTINE_FILE)) as file:
        for number in ledger.quarantined(parts):
            data = storage.read_bytes(ledger.quarantine_file(number))
            file.write(data)
            listed += data.decode().splitlines()[: _LISTED - len(listed)]
    limit = config.faults.max_bad_fraction
    cut = [] if config.faults.allows_cut_files else [report for report in reports if report.quarantined[CUT_SHORT]]
    bad = [report for report in reports if report.bad_fraction > limit or report in cut]
    if bad:
        shares = ", ".join(
            f"{report.name} {report.bad_fraction:.2%}{' and a file that is cut short' * (report in cut)}"
            for report in bad
        )
        raise DataQualityError(
            f"more input is unusable than faults.max_bad_fraction={limit:g}: {shares}; all of it is listed in "
            f"{ledger.folder}/{QUARANTINE_FILE}; mend it, or run again with a larger fraction",
            listed,
        )


def _write_report(
    folder: RunFolder, config: BuildCorpusConfig, reports: Sequence[SourceReport], screen: Screen
) -> None:
    unit = "tokens of the tokenizer" if screen.tokenizer_json else "basic tokens (words and signs)"
    report = corpus_report(reports, token_unit=unit, evaluation=screen.evaluation.names if screen.evaluation else ())
    storage.write_bytes(folder.path(REPORT_FILE), report_bytes(report))


def _nothing_kept(reports: Sequence[SourceReport]) -> str:
    return f"sources: {summary(reports)}; give other sources or loosen filters"
