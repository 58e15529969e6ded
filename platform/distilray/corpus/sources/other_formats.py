"""Unsupported file formats, and how to convert files of each."""

from collections.abc import Mapping

from distilray.errors import InputError
from distilray.formats.streams import UnreadableError, read_chunks, split_suffix

_CONVERT = "convert it to plain text (.txt), one file per document"
_UNPACK = "unpack it and use the folder with its files"
_EXPORT = "save its table as .csv or .parquet"
_RECOMPRESS = "decompress it, or compress it as .gz, .bz2, .xz or .zst"
_FIXES: Mapping[str, tuple[str, ...]] = {
    _CONVERT: (
        *(".pdf", ".ps", ".djvu", ".doc", ".docx", ".odt", ".rtf", ".ppt", ".pptx", ".odp"),
        *(".epub", ".mobi", ".azw", ".azw3", ".fb2", ".htm", ".html", ".xhtml", ".mht", ".mhtml", ".warc", ".wet"),
    ),
    _UNPACK: (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar", ".zim"),
    _EXPORT: (
        *(".xls", ".xlsx", ".ods", ".sqlite", ".sqlite3", ".db", ".sql", ".mdb"),
        *(".arrow", ".feather", ".orc", ".avro", ".h5", ".hdf5", ".pkl", ".pickle", ".npy", ".npz"),
    ),
    _RECOMPRESS: (".lz4", ".lz", ".lzma", ".lzo", ".br", ".sz", ".snappy", ".z", ".zstd"),
}
_FIX_BY_SUFFIX = {suffix: fix for fix, suffixes in _FIXES.items() for suffix in suffixes}
# Format and fix by the first bytes of a file, for files with a misleading suffix.
_MAGIC: Mapping[bytes, tuple[str, str]] = {
    b"%PDF-": ("PDF", _CONVERT),
    b"{\\rtf": ("RTF", _CONVERT),
    b"\xd0\xcf\x11\xe0": ("an old Office file", _CONVERT),
    b"PK\x03\x04": ("a zip archive or Office file", f"{_UNPACK}, or {_CONVERT}"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", _UNPACK),
    b"\x1f\x8b\x08": ("gzip data", "rename it to end in .gz"),
    b"BZh": ("bz2 data", "rename it to end in .bz2"),
    b"\xfd7zXZ\x00": ("xz data", "rename it to end in .xz"),
    b"\x28\xb5\x2f\xfd": ("zstd data", "rename it to end in .zst"),
    b"PAR1": ("Parquet", "set kind: parquet"),
    b"\xff\xfe": ("UTF-16", "convert it to UTF-8"),
    b"\xfe\xff": ("UTF-16", "convert it to UTF-8"),
}


def suggested_fix(name: str) -> str | None:
    """Return the fix for a file with an unsupported suffix; None for other suffixes."""
    return _FIX_BY_SUFFIX.get(split_suffix(name)[2])


def is_binary(uri: str) -> bool:
    """Return whether a file without a suffix is something else than text, such as a program."""
    if split_suffix(uri)[2]:
        return False
    try:
        head = next(read_chunks(uri), b"")
    except UnreadableError:
        return True
    return b"\0" in head or any(map(head.startswith, _MAGIC))


def reject_other_formats(uri: str, head: bytes) -> None:
    """Reject a text file that starts with the first bytes of another format.

    Raises:
        InputError: with the name of the format and the fix.
    """
    for magic, (name, fix) in _MAGIC.items():
        if head.startswith(magic):
            raise InputError(f"{uri}: {name}, not UTF-8 text; {fix}")
