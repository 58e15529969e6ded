"""What every kind of source gives: ranges of files, and the documents of a range."""

from dataclasses import dataclass

from distilray.corpus.wikitext.sites import ENGLISH, Site
from distilray.errors import InputError

HEADING = "heading"  # reason for which a line of a text, or a document without any other, is dropped
CUT_SHORT = "cut_short"  # reason for quarantine: the end of a file is missing, and nobody knows how much
EMPTY = "empty"  # form of the range of a file without content, and the reason for which it is dropped


@dataclass(frozen=True)
class FileRange:
    """A part of a file that can be read without the rest.

    Attributes:
        uri: of the file.
        name: of the file in the provenance of its documents.
        start: first byte of the file as it is stored (row group for Parquet).
        end: byte behind the last one (row group for Parquet). A document that begins before `end` belongs to the
            range even when it ends behind it.
        form: how the kind reads it, such as `streams` or `lines`.
        stored_bytes: size of the range in the file as it is stored.
    """

    uri: str
    name: str
    start: int
    end: int
    form: str
    stored_bytes: int


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


@dataclass(frozen=True)
class Quarantined:
    """Input that could not be used.

    Attributes:
        file: name of the file, as in `FileRange`.
        offset: where it begins, in bytes of the file as it is stored (of the compressed stream or block that holds it).
        reason: one word for counting: `bz2_damaged`, `xml_malformed`, `too_large`, `not_utf8`, ...
        detail: what was found, for people; one line.
        lost_bytes: bytes of the stored file that could not be read; 0 for a document that was read and refused.
    """

    file: str
    offset: int
    reason: str
    detail: str
    lost_bytes: int = 0


class CutShortError(InputError):
    """A file whose end is missing or damaged. What is there is read if `faults.max_bad_fraction` is raised."""

    def __init__(self, uri: str, fault: str) -> None:
        super().__init__(
            f"{uri}: {fault}; fetch the dump again, or raise faults.max_bad_fraction to use the part that is there"
        )
