"""What the model learnt from: the corpus, the vocabulary, the masks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distilray.report.charts import bar_chart
from distilray.report.figures import NOTHING, label, shown, size
from distilray.report.page import Markup, beside, code, figure, figures, heading, markup, paragraph, table
from distilray.report.runs import Run, Runs

CORPUS_REPORT_FILE = "corpus_report.json"
COUNTS_FILE = "token_counts.json"
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

Values = Mapping[str, Any]


def corpus_section(runs: Runs) -> Markup:
    """Documents, sentences and words by source; what was dropped, with reasons."""
    return markup(*[_corpus(run, run.values(CORPUS_REPORT_FILE)) for run in runs.of("build_corpus")])


def vocabulary_section(runs: Runs) -> Markup:
    """The vocabulary, and how much of it the text uses."""
    trained = [
        table(f"Vocabulary learnt ({run.name})", ["", ""], [[label(key), _short(key, run)] for key in run.counts])
        for run in runs.of("train_tokenizer")
    ]
    return beside(*trained, *[_use(run) for run in runs.of("encode_corpus") if run.has(COUNTS_FILE)])


def masking_section(runs: Runs) -> Markup:
    """The shares that were asked for, beside those that the examples have."""
    return markup(*[_encoded(run) for run in runs.of("encode_corpus")])


def _corpus(run: Run, report: Values) -> Markup:
    sources: Values = report.get("sources", {})
    lead = (
        f"{report['documents']:,} documents, {report['sentences']:,} sentences, {report['words']:,} words, "
        f"{report['tokens']:,} {report['token_unit']}."
    )
    licences = [f"{source.get('name')}: {source.get('licence')}" for source in run.config.get("sources", [])]
    tables = [
        table(
            "Sources",
            ["", *map(str, sources)],
            [[title, *[source.get(key, NOTHING) for source in sources.values()]] for key, title in _COUNTED],
        ),
        *[table(caption, ["reason", *map(str, sources)], _by_reason(sources, key)) for key, caption in _DROPPED],
        table(
            "Documents that held text of an evaluation set",
            ["set", "documents"],
            [[name, found["documents"]] for name, found in report.get("evaluation_sets", {}).items()],
        ),
    ]
    charts = [
        figure(
            f"Words in a {unit}, {name}; a bar begins at its number",
            bar_chart(
                f"Words in a {unit}, {name}",
                source.get(f"words_per_{unit}", {}),
                x_label=f"words in a {unit}",
                y_label=f"{unit}s",
            ),
        )
        for name, source in sources.items()
        for unit in ("document", "sentence")
        if source.get(f"words_per_{unit}")
    ]
    told = paragraph("Licences of the sources. ", "; ".join(licences), ".") if licences else Markup("")
    return markup(paragraph(lead), told, beside(*tables), figures(*charts))


def _by_reason(sources: Values, key: str) -> list[list[object]]:
    reasons = sorted({reason for source in sources.values() for reason in source.get(key, {})})
    return [
        [reason.replace("_", " "), *[source.get(key, {}).get(reason, 0) for source in sources.values()]]
        for reason in reasons
    ]


def _short(key: str, run: Run) -> object:
    value = run.counts[key]
    return code(str(value)[:12]) if key.endswith("_hash") else shown(key, value)


def _use(run: Run) -> Markup:
    counts: Sequence[int] = run.values(COUNTS_FILE)["counts"]
    total = sum(counts)
    used = sum(1 for count in counts if count)
    tokenizer = json.loads(run.text("tokenizer.json"))
    model: Values = tokenizer.get("model", {})
    unknown = model.get("vocab", {}).get(model.get("unk_token", ""), -1)
    rows: list[list[object]] = [
        ["ids", len(counts)],
        ["ids that the train documents use", used],
        ["tokens of the train documents", total],
        ["share of unknown tokens", f"{counts[unknown] / total:.4%}" if total and unknown >= 0 else NOTHING],
        ["tokens of the hundred most frequent ids", f"{_of_most(counts, 100):.1%}" if total else NOTHING],
        ["hash of the tokenizer", code(str(run.counts.get("tokenizer_hash", ""))[:12])],
    ]
    return table(f"Vocabulary in use ({run.name})", ["", ""], rows)


def _of_most(counts: Sequence[int], number: int) -> float:
    return sum(sorted(counts, reverse=True)[:number]) / sum(counts)


def _encoded(run: Run) -> Markup:
    splits = [split for split in _SPLITS if split in run.counts]
    found = {split: run.counts[split] for split in splits}
    masking: Values = run.config.get("masking", {})
    rows = [
        [title, _percent(wanted), *[_percent(_share(found[split], key)) for split in splits]]
        for title, key, wanted in (
            ("tokens to predict, of all", "predicted_share", masking.get("mlm_probability")),
            ("of these shown as [MASK]", "predicted_as_mask", masking.get("mask_share")),
            ("of these shown as another token", "predicted_as_random", masking.get("random_share")),
            ("of these shown as they are", "predicted_as_kept", masking.get("keep_share")),
            ("segments B from elsewhere", "random_next_share", run.config.get("random_next_probability")),
        )
    ]
    drawn = "anew in every epoch" if masking.get("dynamic") else "once, when the examples were made"
    notes = paragraph(
        f"Masks are drawn {drawn}. Special tokens are never predicted, so the share of all tokens lies a little below "
        "what was asked for."
    )
    kept = [[label(key), *[shown(key, found[split].get(key)) for split in splits]] for key in _ENCODED]
    stored = sum(each.get("bytes", 0) for each in run.manifest["content"]["outputs"].values())
    return markup(
        heading(f"Examples of {run.config.get('max_seq_length')} tokens at most ({run.name}, {size(stored)})"),
        beside(table("Shares", ["", "asked for", *splits], rows), table("Counts", ["", *splits], kept)),
        notes,
        figures(*[_lengths(split, found[split]) for split in splits]),
    )


def _share(counts: Values, key: str) -> float | None:
    if key.endswith("_share"):
        return counts.get(key)
    predicted = counts.get("predicted")
    return counts.get(key, 0) / predicted if predicted else None


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.2%}"


def _lengths(split: str, counts: Values) -> Markup:
    bins = {str(int(key[7:])): counts[key] for key in sorted(counts) if key.startswith("length_")}
    chart = bar_chart(f"Examples by length, {split}", bins, x_label="tokens, from", y_label="examples")
    return figure(f"Examples by length, {split}", chart) if chart else Markup("")
