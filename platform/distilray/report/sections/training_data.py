"""Training data: corpus, vocabulary, masks."""

import json
from collections.abc import Sequence

from markupsafe import Markup

from distilray.report.blocks import code, figure, heading, join, paragraph, side_by_side, table
from distilray.report.charts import bar_chart
from distilray.report.figures import NOTHING, label, shown, size
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
    ("residue_per_1000_words", "residue of markup per 1,000 words"),
    ("holes_per_1000_words", "holes per 1,000 words"),
)
_DROPPED = (
    ("dropped", "Documents dropped, by reason"),
    ("sentences_dropped", "Sentences left out of documents that were kept"),
    ("quarantined", "Places in quarantine"),
)
_SPLITS = ("train", "heldout")
_ENCODED = ("documents", "document_tokens", "examples", "tokens", "tokens_per_example", "trimmed_tokens")


def corpus_section(runs: Runs) -> Markup:
    """Return documents, sentences and words by source, and what was dropped for which reason."""
    return join(*[_corpus(run, run.values(CORPUS_REPORT_FILE)) for run in runs.of("build_corpus")])


def vocabulary_section(runs: Runs) -> Markup:
    """Return the size of the vocabulary, and how much of it the text uses."""
    trained = [
        table(
            f"Vocabulary learnt ({run.name})",
            ["", ""],
            [[label(key), code(value[:12]) if key.endswith("_hash") else shown(key, value)]
             for key, value in run.counts.items()],
        )
        for run in runs.of("train_tokenizer")
    ]  # fmt: skip
    return side_by_side(
        "tables", *trained, *[_usage(run) for run in runs.of("encode_corpus") if run.has(TOKEN_COUNTS_FILE)]
    )


def masking_section(runs: Runs) -> Markup:
    """Return the requested shares next to those of the examples."""
    return join(*map(_encoded, runs.of("encode_corpus")))


def _corpus(run: Run, report: Values) -> Markup:
    sources: Values = report.get("sources", {})
    lead = (
        f"{report['documents']:,} documents, {report['sentences']:,} sentences, {report['words']:,} words, "
        f"{report['tokens']:,} {report['token_unit']}."
    )
    licenses = "; ".join(f"{source.get('name')}: {source.get('license')}" for source in run.config.get("sources", []))
    counts = [[title, *[source.get(key, NOTHING) for source in sources.values()]] for key, title in _COUNTED]
    leaks = [[name, found["documents"]] for name, found in report.get("evaluation_sets", {}).items()]
    return join(
        paragraph(lead),
        paragraph("Licenses of the sources. ", licenses, ".") if licenses else "",
        side_by_side(
            "tables",
            table("Sources", ["", *sources], counts),
            *[table(caption, ["reason", *sources], _by_reason(sources, key)) for key, caption in _DROPPED],
            table("Documents that held text of an evaluation set", ["set", "documents"], leaks),
        ),
        side_by_side(
            "figures",
            *[_words(name, source, unit) for name, source in sources.items() for unit in ("document", "sentence")],
        ),
    )


def _words(name: str, source: Values, unit: str) -> Markup:
    title = f"Words in a {unit}, {name}"
    bars = source.get(f"words_per_{unit}", {})
    chart = bar_chart(title, bars, x_label=f"words in a {unit}", y_label=f"{unit}s")
    return figure(f"{title}; a bar begins at its number", chart)


def _by_reason(sources: Values, key: str) -> list[list[object]]:
    reasons = sorted({reason for source in sources.values() for reason in source.get(key, {})})
    return [
        [reason.replace("_", " "), *[source.get(key, {}).get(reason, 0) for source in sources.values()]]
        for reason in reasons
    ]


def _usage(run: Run) -> Markup:
    counts: Sequence[int] = run.values(TOKEN_COUNTS_FILE)["counts"]
    total = sum(counts)
    model: Values = json.loads(run.text("tokenizer.json")).get("model", {})
    unknown = model.get("vocab", {}).get(model.get("unk_token", ""), -1)
    most_frequent = sum(sorted(counts, reverse=True)[:100])
    rows: list[list[object]] = [
        ["ids", len(counts)],
        ["ids that the train documents use", sum(1 for count in counts if count)],
        ["tokens of the train documents", total],
        ["share of unknown tokens", f"{counts[unknown] / total:.4%}" if total and unknown >= 0 else NOTHING],
        ["tokens of the hundred most frequent ids", f"{most_frequent / total:.1%}" if total else NOTHING],
        ["hash of the tokenizer", code(str(run.counts.get("tokenizer_hash", ""))[:12])],
    ]
    return table(f"Vocabulary in use ({run.name})", ["", ""], rows)


def _encoded(run: Run) -> Markup:
    splits: Values = {split: run.counts[split] for split in _SPLITS if split in run.counts}
    masking: Values = run.config.get("masking", {})
    shares = [
        [title, _percent(requested), *[_percent(_share(counts, key)) for counts in splits.values()]]
        for title, key, requested in (
            ("tokens to predict, of all", "predicted_share", masking.get("mlm_probability")),
            ("of these shown as [MASK]", "predicted_as_mask", masking.get("mask_share")),
            ("of these shown as another token", "predicted_as_random", masking.get("random_share")),
            ("of these shown as they are", "predicted_as_kept", masking.get("keep_share")),
            ("segments B from elsewhere", "random_next_share", run.config.get("random_next_probability")),
        )
    ]
    counted = [[label(key), *[shown(key, counts.get(key)) for counts in splits.values()]] for key in _ENCODED]
    drawn = "anew in every epoch" if masking.get("dynamic") else "once, when the examples were made"
    stored = sum(entry.get("bytes", 0) for entry in run.outputs.values())
    return join(
        heading(f"Examples of {run.config.get('max_seq_length')} tokens at most ({run.name}, {size(stored)})"),
        side_by_side(
            "tables",
            table("Shares", ["", "asked for", *splits], shares),
            table("Counts", ["", *splits], counted),
        ),
        paragraph(
            f"Masks are drawn {drawn}. Special tokens are never predicted, so the share of all tokens lies a little "
            "below what was asked for."
        ),
        side_by_side("figures", *[_lengths(split, counts) for split, counts in splits.items()]),
    )


def _share(counts: Values, key: str) -> float | None:
    if key.endswith("_share"):
        return counts.get(key)
    predicted = counts.get("predicted")
    return counts.get(key, 0) / predicted if predicted else None


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.2%}"


def _lengths(split: str, counts: Values) -> Markup:
    title = f"Examples by length, {split}"
    bins = {str(int(key[7:])): counts[key] for key in sorted(counts) if key.startswith("length_")}
    return figure(title, bar_chart(title, bins, x_label="tokens, from", y_label="examples"))
