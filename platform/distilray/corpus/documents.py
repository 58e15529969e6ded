"""A table of raw pages into a table of documents, row by row; pure, so that it runs anywhere in any order."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa

from distilray.config.corpus import FilterConfig
from distilray.corpus.cleaning import HOLE, MarkupError, clean_wikitext
from distilray.corpus.filters import MARKUP_UNREADABLE, count_words, page_drop_reason, text_drop_reason
from distilray.corpus.quality import count_holes, count_residue
from distilray.corpus.sentences import split_sentences
from distilray.corpus.wikipedia import Page, open_dump, read_pages
from distilray.schemas import DOCUMENTS

# A page on its way from the reader to the cleaner, with the dump it comes from.
_PAGES = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("licence", pa.string()),
        ("stored_bytes", pa.int64()),  # of all dumps as they are stored, read so far: the progress
        ("page_id", pa.int64()),
        ("revision_id", pa.int64()),
        ("namespace", pa.int64()),
        ("title", pa.string()),
        ("redirect", pa.bool_()),
        ("text", pa.string()),
        ("oversized", pa.bool_()),
    ]
)

# A page after cleaning, kept or dropped: the columns of a document, and what is counted.
_OUTCOMES = pa.schema(
    [
        *[field.with_nullable(True) for field in DOCUMENTS],
        ("dropped", pa.string()),  # the reason, null for a document
        ("words", pa.int64()),
        ("sentences_with_holes", pa.int64()),
        ("residue", pa.int64()),
        ("holes", pa.int64()),
        ("stored_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class DumpFile:
    """A dump to read, and what its documents say of where they come from.

    `bytes_before` are those of the dumps before it in the recipe, so that progress runs through all of them.
    """

    uri: str
    source: str
    file: str
    licence: str
    bytes_before: int = 0


def page_tables(dump: DumpFile, *, pages_per_table: int, max_page_bytes: int) -> Iterator[pa.Table]:
    """The pages of a dump in its order, as tables of at most `pages_per_table` rows, while it is being read.

    Raises:
        InputError: the dump cannot be read.
    """
    stream = open_dump(dump.uri)
    origin = {"source": dump.source, "file": dump.file, "licence": dump.licence}
    rows: list[dict[str, object]] = []
    for page in read_pages(stream, max_page_bytes=max_page_bytes):
        rows.append({**origin, "stored_bytes": dump.bytes_before + stream.position, **asdict(page)})
        if len(rows) == pages_per_table:
            yield pa.Table.from_pylist(rows, schema=_PAGES)
            rows = []
    yield pa.Table.from_pylist(rows, schema=_PAGES)


def clean_pages(pages: pa.Table, *, filters: FilterConfig) -> pa.Table:
    """One row for each page: a document, or the reason why it is none."""
    return pa.Table.from_pylist([_outcome(row, filters) for row in pages.to_pylist()], schema=_OUTCOMES)


def documents_of(outcomes: pa.Table) -> pa.Table:
    """The rows that are documents, in the schema of the hand-over."""
    kept = outcomes.filter(outcomes["dropped"].is_null()).select(DOCUMENTS.names)
    return kept.cast(DOCUMENTS)


def _outcome(row: dict[str, object], filters: FilterConfig) -> dict[str, object]:
    page = Page(**{name: row[name] for name in Page.__dataclass_fields__})  # type: ignore[arg-type]
    sentences, with_holes, reason = _sentences(page)
    reason = reason or text_drop_reason(sentences, filters)
    kept = [] if reason else sentences
    text = "\n".join(kept)
    return {
        "doc_id": f"{row['source']}:{page.page_id}",
        **{name: row[name] for name in ("source", "title", "file", "page_id", "revision_id", "licence")},
        "sentences": kept,
        "dropped": reason,
        "words": count_words(kept),
        "sentences_with_holes": 0 if reason else with_holes,
        "residue": count_residue(text),
        "holes": count_holes(text),
        "stored_bytes": row["stored_bytes"],
    }


def _sentences(page: Page) -> tuple[list[str], int, str | None]:
    """The sentences of a page, how many were left out because something other than words stood in them, the reason."""
    reason = page_drop_reason(page)
    if reason is not None:
        return [], 0, reason
    try:
        found = split_sentences(clean_wikitext(page.text))
    except MarkupError:
        return [], 0, MARKUP_UNREADABLE
    whole = list(_without_holes(found))
    return whole, len(found) - len(whole), None


def _without_holes(sentences: Iterable[str]) -> Iterator[str]:
    return (sentence for sentence in sentences if HOLE not in sentence)
