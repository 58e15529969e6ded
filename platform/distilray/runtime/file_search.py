"""File search: resolve a path, folder or glob pattern into a list of files."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from pyarrow import fs

from distilray.config.sample import resolve_sample
from distilray.errors import InputError
from distilray.runtime import storage

_NOT_FOUND = "no such file or folder; correct the path"


def find_files(pattern: str) -> list[str]:
    """Return the sorted URIs of a file, of all files below a folder, or of those that match a pattern with `*`.

    Names that start with a dot or an underscore are skipped, because by convention they contain no data. A `*` matches
    any text without a slash, also in the names of folders. Symbolic links are followed, and a file with several names
    is listed once.

    Raises:
        InputError: there is no regular file, a folder cannot be listed, or a link is broken.
    """
    if "*" in pattern and "/" not in pattern.partition("*")[0]:
        pattern = f"./{pattern}"
    folder, star, _ = pattern.partition("*")
    if star:
        top = folder.rpartition("/")[0] + "/"
        rest = pattern.removeprefix(top)
        names = _names_below(top, (unquote(rest) if "://" in top else rest).split("/"))
    elif storage.is_folder(pattern):
        top, names = pattern, _names_below(pattern, [])
    elif storage.exists(pattern):
        store, path = storage.filesystem(pattern)
        if store.get_file_info(path).type != fs.FileType.File:  # reading a pipe or device would block
            raise InputError(f"{pattern}: not a regular file; write its content to a file and name that")
        return [pattern]
    else:
        raise InputError(f"{pattern}: {_NOT_FOUND}")
    if not names:
        raise InputError(f"{pattern}: no files found; correct the path")
    return [storage.join(top, quote(name) if "://" in top else name) for name in sorted(names)]


def check_exists(pattern: str) -> str:
    """Check that a path exists, and return it. Patterns are not checked.

    Raises:
        InputError: there is no file or folder of this name.
    """
    if "*" not in pattern and not storage.exists(resolve_sample(pattern)):
        raise InputError(f"{pattern}: {_NOT_FOUND}")
    return pattern


def _names_below(uri: str, parts: Sequence[str]) -> list[str]:
    """Return the relative paths of files below a folder: all, or those that match the parts of a pattern."""
    store, path = storage.filesystem(uri)
    patterns = [re.compile(".*".join(map(re.escape, part.split("*")))) for part in parts]
    if isinstance(store, fs.LocalFileSystem):
        files = _walk_matching(path, "", patterns) if patterns else _walk(path)
        top, names = os.path.realpath(path), dict[str, str]()
        for name, real in sorted(files, key=lambda file: (os.path.join(top, file[0]) != file[1], file[0])):
            names.setdefault(real, name)  # names without links come first
        return list(names.values())
    try:
        infos = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{uri}: cannot be listed ({error}); check the access to it") from None
    paths = [info.path[len(path.rstrip("/")) + 1 :] for info in infos if info.type == fs.FileType.File]
    split = [(name, name.split("/")) for name in paths]
    return [name for name, levels in split if not any(map(_is_hidden, levels)) and _fits(levels, patterns)]


def _fits(levels: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> bool:
    if not patterns:
        return True
    return len(levels) == len(patterns) and all(
        pattern.fullmatch(level) for pattern, level in zip(patterns, levels, strict=True)
    )


def _walk(top: str) -> Iterator[tuple[str, str]]:
    """Yield name and real path of the files below a local folder. Each folder is listed once, so cycles terminate."""
    seen: set[str] = set()
    folders: list[tuple[str, str]] = [(top, "")]
    linked: list[tuple[str, str]] = []
    while folders or linked:
        path, prefix = folders.pop() if folders else linked.pop(0)
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        for name, target, is_folder, is_link in _list(path, real):
            if not is_folder:
                yield f"{prefix}{name}", target
            elif not is_link:
                folders.append((os.path.join(path, name), f"{prefix}{name}/"))
            elif not f"{real}/".startswith(f"{target.rstrip('/')}/"):  # skip links to this folder and its ancestors
                linked.append((os.path.join(path, name), f"{prefix}{name}/"))


def _walk_matching(path: str, prefix: str, patterns: Sequence[re.Pattern[str]]) -> Iterator[tuple[str, str]]:
    """Yield name and real path of the files below a local folder that match; there is one pattern per level."""
    for name, target, is_folder, _ in _list(path, os.path.realpath(path), patterns[0]):
        if is_folder and len(patterns) > 1:
            yield from _walk_matching(os.path.join(path, name), f"{prefix}{name}/", patterns[1:])
        elif not is_folder and len(patterns) == 1:
            yield f"{prefix}{name}", target


def _list(path: str, real: str, pattern: re.Pattern[str] | None = None) -> Iterator[tuple[str, str, bool, bool]]:
    """Yield name, real path, `is_folder` and `is_link` of the matching entries of a local folder."""
    try:
        with os.scandir(path) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror}); give user {os.getuid()} access to it") from None
    for entry in entries:
        if _is_hidden(entry.name) or (pattern is not None and not pattern.fullmatch(entry.name)):
            continue
        is_link = entry.is_symlink()
        try:
            entry.stat()
        except OSError as error:
            if not is_link:  # removed after the listing, or in a folder without search permission
                raise InputError(
                    f"{entry.path}: cannot be read ({error.strerror}); give user {os.getuid()} access to it"
                ) from None
            fix = "remove the link, or correct its target"
            raise InputError(
                f"{entry.path}: broken link to {Path(entry.path).readlink()} ({error.strerror}); {fix}"
            ) from None
        is_folder = entry.is_dir()
        if is_folder or entry.is_file():
            yield (
                entry.name,
                os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name),
                is_folder,
                is_link,
            )


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))
