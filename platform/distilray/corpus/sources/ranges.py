"""Documents as every kind of source yields them, and the names of special cases."""

from dataclasses import dataclass

from distilray.config.corpus import TableSource
from distilray.corpus.wikitext.sites import ENGLISH, Site
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.tables import Row

HEADING = "heading"  # reason for which a line of a text, or a document without any other, is dropped
EMPTY = "empty"  # form of the range of a file without content, and the reason for which it is dropped


@dataclass(frozen=True)
class RawDocument:
    """A document as its source holds it.

    Attributes:
        key: unique in its source.
        text: wikitext or plain text, by the kind of the source; empty when `dropped`.
        text_bytes: size of `text` in UTF-8 before anything was dropped.
        dropped: why it is not worth cleaning, None when it is.
        site: the wiki of a page.
        headings: lines that are not in `text`, as they are headings.
    """

    key: str
    title: str
    text: str
    text_bytes: int
    page_id: int | None = None
    revision_id: int | None = None
    dropped: str | None = None
    site: Site = ENGLISH
    headings: int = 0


def selected_columns(source: TableSource) -> dict[str, str]:
    """Return the columns that are read from a table, by the setting of the recipe that names them."""
    settings = ("text_column", "title_column", "id_column")
    return {setting: getattr(source, setting) for setting in settings if getattr(source, setting) is not None}


def row_document(row: Row, key: str, title: str, text: str, *, max_bytes: int) -> RawDocument | BadRow:
    """Return the document of a row; without a key it is named after its file and offset."""
    key = key or f"{row.file}:{row.offset}"
    try:
        size = len(text.encode())
        (key + title).encode()
    except UnicodeEncodeError:
        detail = "contains bytes that are not UTF-8, or half of a surrogate pair; convert the file to UTF-8"
        return row.refuse("not_utf8", detail)
    if size > max_bytes:
        return row.refuse("too_large", f"{size:,} bytes; raise max_document_mb")
    return RawDocument(key, title, text, size)


class TruncatedFileError(InputError):
    """A file whose end is missing or damaged. What is there is read if `fault_tolerance.max_bad_fraction` is raised.

    Attributes:
        fault: the file, and what is wrong with it.
    """

    def __init__(self, uri: str, fault: str) -> None:
        self.fault = f"{uri}: {fault}"
        super().__init__(
            f"{self.fault}; fetch the dump again, or raise fault_tolerance.max_bad_fraction to use the rest"
        )
