"""Measurements of a surveyed text: tokens, sentences, and the documents that the filters keep."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from distilray.config.corpus import FilterConfig
from distilray.corpus.filters import count_basic_tokens, text_drop_reason
from distilray.corpus.sentences import split_sentences
from distilray.corpus.survey import Survey
from distilray.errors import InputError

_SAMPLE_TEXTS, _SAMPLE_CHARS = 300, 3000
# The user has chosen the text, so only what is too short to learn from is dropped. The defaults are made for dumps.
_OWN_FILTERS: Mapping[str, float] = {
    "min_words": 5,
    "min_sentences": 1,
    "min_letter_fraction": 0.0,
    "max_list_fraction": 1.0,
    "max_repeated_fraction": 1.0,
}
_LONG_DOCUMENT = 95  # percentile


@dataclass(frozen=True)
class TextMeasurement:
    """Properties of a text, estimated from samples.

    Attributes:
        documents, tokens: of the documents that the filters keep, without copies.
        document_tokens: length of a long document; 95% are not longer, or the sample of a document ends there.
        has_single_sentences: most documents have only one sentence.
        filters: settings of the filters.
        dropped: share of the documents that the filters drop, by reason.
        unknown: share of the tokens that the tokenizer does not know.
        pieces_per_word: tokens per word or punctuation mark.
    """

    documents: int
    tokens: int
    document_tokens: int
    has_single_sentences: bool
    filters: Mapping[str, float]
    dropped: Mapping[str, float]
    unknown: float
    pieces_per_word: float


def measure_text(survey: Survey, tokenizer: Tokenizer, language: str, *, unknown_id: int) -> TextMeasurement:
    """Measure the samples of a survey.

    Raises:
        InputError: the filters would drop all documents.
    """
    step = max(1, len(survey.samples) // _SAMPLE_TEXTS)
    texts = [text[:_SAMPLE_CHARS] for text in survey.samples[::step]]
    documents = [split_sentences(text, language) for text in texts]
    is_dump = all(source.source.kind == "wikipedia" for source in survey.sources)
    filters = {} if is_dump else _OWN_FILTERS
    config = FilterConfig.model_validate(filters)
    reasons = [text_drop_reason(sentences, config) for sentences in documents]
    kept = [sentences for sentences, reason in zip(documents, reasons, strict=True) if reason is None]
    if not kept:
        described = ", ".join(sorted({str(reason) for reason in reasons}))
        raise InputError(f"text_path: none of {len(documents):,} sampled documents is usable text ({described})")
    ids = [encoding.ids for encoding in tokenizer.encode_batch([*map(" ".join, kept)], add_special_tokens=False)]
    lengths = [len(document) for document in ids]
    kept_share, unique = len(kept) / len(documents), len(set(texts)) / len(texts)
    return TextMeasurement(
        documents=round(survey.documents * kept_share * unique),
        tokens=max(1, round(survey.text_bytes * unique * sum(lengths) / sum(len(text.encode()) for text in texts))),
        document_tokens=max(1, int(np.percentile(lengths, _LONG_DOCUMENT))),
        has_single_sentences=float(np.median([len(sentences) for sentences in kept])) < 2,
        filters=filters,
        dropped={reason: count / len(documents) for reason, count in Counter(filter(None, reasons)).items()},
        unknown=sum(document.count(unknown_id) for document in ids) / max(1, sum(lengths)),
        pieces_per_word=sum(lengths) / max(1, sum(map(count_basic_tokens, kept))),
    )
