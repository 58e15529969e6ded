"""Raw documents, the common output of all kinds of sources, and their shared errors and constants."""

from dataclasses import dataclass

from distilray.config.corpus import TableSource
from distilray.corpus.wikitext.sites import ENGLISH, Site
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.tables import Row

HEADING = "heading"  # reason to drop a line of a text, or a document with only such lines
EMPTY = "empty"  # form of the range of an empty file, and the reason to drop it


@dataclass(frozen=True)
class RawDocument:
    """A document before cleaning.

    Attributes:
        key: unique within the source.
        text: wikitext or plain text, depending on the kind of source; empty if `dropped`.
        text_bytes: UTF-8 size of the complete text.
        dropped: reason to drop the document without cleaning it, or None.
        site: wiki of a page.
        headings: number of heading lines that were removed from `text`.
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
    """Return the names of the columns to read from a table, by recipe key."""
    settings = ("text_column", "title_column", "id_column")
    return {setting: getattr(source, setting) for setting in settings if getattr(source, setting) is not None}


def row_document(row: Row, key: str, title: str, text: str, *, max_bytes: int) -> RawDocument | BadRow:
    """Create the document of a row. Without a `key`, the key consists of the file name and offset."""
    key = key or f"{row.file}:{row.offset}"
    try:
        size = len(text.encode())
        (key + title).encode()
    except UnicodeEncodeError:
        detail = "contains invalid UTF-8 or half of a surrogate pair; convert the file to UTF-8"
        return row.reject("not_utf8", detail)
    if size > max_bytes:
        return row.reject("too_large", f"{size:,} bytes; raise max_document_mb")
    return RawDocument(key, title, text, size)


class TruncatedFileError(InputError):
    """The end of a file is missing or damaged.

    The intact part can be read if `fault_tolerance.max_bad_fraction` is raised.

    Attributes:
        fault: message without the suggested fix.
    """

    def __init__(self, uri: str, fault: str) -> None:
        self.fault = f"{uri}: {fault}"
        super().__init__(
            f"{self.fault}; download the dump again, or raise fault_tolerance.max_bad_fraction to use the rest"
        )
