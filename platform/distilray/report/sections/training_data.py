"""Sections on the training data: corpus, vocabulary, masking."""

import json
from collections.abc import Sequence

from markupsafe import Markup

from distilray.report.blocks import code, figure, heading, join, paragraph, side_by_side, table
from distilray.report.charts import bar_chart
from distilray.report.formatting import NOTHING, format_size, format_value, label, short_hash
from distilray.report.runs import Run, Runs, Values

CORPUS_REPORT_FILE = "corpus_report.json"
TOKEN_COUNTS_FILE = "token_counts.json"  # noqa: S105
_COUNTED = (
    ("files", "files"),
    ("read", "documents read"),
    ("documents", "documents kept"),
    ("refused", "documents that could not be read"),
    ("sentences", "sentences"),
    ("words", "words"),
    ("tokens", "tokens"),
    ("residue_per_1000_words", "markup residue per 1,000 words"),
    ("holes_per_1000_words", "gaps (removed text) per 1,000 words"),
)
_DROPPED = (
    ("dropped", "Documents dropped, by reason"),
    ("sentences_dropped", "Sentences dropped from kept documents"),
    ("quarantined", "Quarantined input"),
)
_SPLITS = ("train", "heldout")
_ENCODED = ("documents", "document_tokens", "examples", "tokens", "tokens_per_example", "trimmed_tokens")


def corpus_section(runs: Runs) -> Markup:
    """Return the size of each source, and the numbers of dropped documents by reason."""
    return join(*[_corpus(run, run.read_json(CORPUS_REPORT_FILE)) for run in runs.by_job("build_corpus")])


def vocabulary_section(runs: Runs) -> Markup:
    """Return the size of the vocabulary, and its use in the train documents."""
    trained = [
        table(
            f"Tokenizer training ({run.name})",
            ["", ""],
            [[label(key), code(short_hash(value)) if key.endswith("_hash") else format_value(key, value)]
             for key, value in run.counts.items()],
        )
        for run in runs.by_job("train_tokenizer")
    ]  # fmt: skip
    return side_by_side(
        "tables",
        *trained,
        *[_vocabulary_usage(run) for run in runs.by_job("encode_corpus") if run.has_file(TOKEN_COUNTS_FILE)],
    )


def masking_section(runs: Runs) -> Markup:
    """Return the configured masking shares next to the measured ones."""
    return join(*map(_masking, runs.by_job("encode_corpus")))


def _corpus(run: Run, report: Values) -> Markup:
    sources: Values = report.get("sources", {})
    totals = (
        f"{report['documents']:,} documents, {report['sentences']:,} sentences, {report['words']:,} words, "
        f"{report['tokens']:,} {report['token_unit']}."
    )
    licenses = "; ".join(f"{source.get('name')}: {source.get('license')}" for source in run.config.get("sources", []))
    counts = [[title, *[source.get(key, NOTHING) for source in sources.values()]] for key, title in _COUNTED]
    leaks = [[name, leak["documents"]] for name, leak in report.get("evaluation_sets", {}).items()]
    return join(
        paragraph(totals),
        paragraph("Licenses of the sources: ", licenses, ".") if licenses else "",
        side_by_side(
            "tables",
            table("Sources", ["", *sources], counts),
            *[table(caption, ["reason", *sources], _by_reason(sources, key)) for key, caption in _DROPPED],
            table("Documents that contained text of an evaluation set", ["set", "documents"], leaks),
        ),
        side_by_side(
            "figures",
            *[
                _word_histogram(name, source, unit)
                for name, source in sources.items()
                for unit in ("document", "sentence")
            ],
        ),
    )


def _word_histogram(name: str, source: Values, unit: str) -> Markup:
    title = f"Words in a {unit}, {name}"
    bars = source.get(f"words_per_{unit}", {})
    chart = bar_chart(title, bars, x_label=f"words in a {unit}", y_label=f"{unit}s")
    return figure(f"{title}; bars are labeled with their lower bound", chart)


def _by_reason(sources: Values, key: str) -> list[list[object]]:
    reasons = sorted({reason for source in sources.values() for reason in source.get(key, {})})
    return [
        [reason.replace("_", " "), *[source.get(key, {}).get(reason, 0) for source in sources.values()]]
        for reason in reasons
    ]


def _vocabulary_usage(run: Run) -> Markup:
    counts: Sequence[int] = run.read_json(TOKEN_COUNTS_FILE)["counts"]
    total = sum(counts)
    model: Values = json.loads(run.read_text("tokenizer.json")).get("model", {})
    unknown = model.get("vocab", {}).get(model.get("unk_token", ""), -1)
    most_frequent = sum(sorted(counts, reverse=True)[:100])
    rows: list[list[object]] = [
        ["token ids", len(counts)],
        ["token ids that occur in the train documents", sum(1 for count in counts if count)],
        ["tokens in the train documents", total],
        ["share of unknown tokens", f"{counts[unknown] / total:.4%}" if total and unknown >= 0 else NOTHING],
        ["share of the hundred most frequent ids", f"{most_frequent / total:.1%}" if total else NOTHING],
        ["tokenizer hash", code(short_hash(run.counts.get("tokenizer_hash", "")))],
    ]
    return table(f"Vocabulary usage ({run.name})", ["", ""], rows)


def _masking(run: Run) -> Markup:
    splits: Values = {split: run.counts[split] for split in _SPLITS if split in run.counts}
    masking: Values = run.config.get("masking", {})
    shares = [
        [title, _percent(requested), *[_percent(_share(counts, key)) for counts in splits.values()]]
        for title, key, requested in (
            ("predicted tokens, of all tokens", "predicted_share", masking.get("mlm_probability")),
            ("replaced by [MASK], of these", "predicted_as_mask", masking.get("mask_share")),
            ("replaced by another token, of these", "predicted_as_random", masking.get("random_share")),
            ("unchanged, of these", "predicted_as_kept", masking.get("keep_share")),
            ("random segments B", "random_next_share", run.config.get("random_next_probability")),
        )
    ]
    sizes = [[label(key), *[format_value(key, counts.get(key)) for counts in splits.values()]] for key in _ENCODED]
    drawn = "again in every epoch" if masking.get("dynamic") else "once, during encoding"
    stored = sum(entry.get("bytes", 0) for entry in run.outputs.values())
    return join(
        heading(f"Examples of at most {run.config.get('max_seq_length')} tokens ({run.name}, {format_size(stored)})"),
        side_by_side(
            "tables",
            table("Shares", ["", "configured", *splits], shares),
            table("Counts", ["", *splits], sizes),
        ),
        paragraph(
            f"Masks are drawn {drawn}. Special tokens are never predicted, so the share of predicted tokens is "
            "slightly below the configured one."
        ),
        side_by_side("figures", *[_length_histogram(split, counts) for split, counts in splits.items()]),
    )


def _share(counts: Values, key: str) -> float | None:
    if key.endswith("_share"):
        return counts.get(key)
    predicted = counts.get("predicted")
    return counts.get(key, 0) / predicted if predicted else None


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.2%}"


def _length_histogram(split: str, counts: Values) -> Markup:
    title = f"Examples by length, {split}"
    bins = {str(int(key.removeprefix("length_"))): counts[key] for key in sorted(counts) if key.startswith("length_")}
    return figure(title, bar_chart(title, bins, x_label="tokens, from", y_label="examples"))
