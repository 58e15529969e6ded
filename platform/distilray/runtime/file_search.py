"""Search for the files that a path means: a file, all files below a folder, or those that match a pattern."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from pyarrow import fs

from distilray.config.sample import resolve_sample
from distilray.errors import InputError
from distilray.runtime import storage

_NOT_THERE = "no such file or folder; correct the path"


def find_files(pattern: str) -> list[str]:
    """URIs of the files that a path means, sorted: itself, all below a folder, or those that match `*`.

    Names that begin with a dot or an underscore are left out, because they contain no data. A `*` stands for any text
    without a slash; it may be part of the names of folders too. Symbolic links are followed, and a file with several
    names is listed once.

    Raises:
        InputError: there is no file or only a pipe, a folder cannot be listed, or a link has no target.
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
        if store.get_file_info(path).type != fs.FileType.File:  # a pipe or device, which would block a reader
            raise InputError(f"{pattern}: not a regular file; write its content to a file, and give that")
        return [pattern]
    else:
        raise InputError(f"{pattern}: {_NOT_THERE}")
    if not names:
        raise InputError(f"{pattern}: no file there; correct the path")
    return [storage.join(top, quote(name) if "://" in top else name) for name in sorted(names)]


def check_exists(pattern: str) -> str:
    """Return a path, as `find_files` takes it, after a check that it exists; a pattern as it is.

    Raises:
        InputError: there is no file or folder.
    """
    if "*" not in pattern and not storage.exists(resolve_sample(pattern)):
        raise InputError(f"{pattern}: {_NOT_THERE}")
    return pattern


def _names_below(uri: str, parts: Sequence[str]) -> list[str]:
    """Paths of files below a folder: of all, or of those that match the parts of a pattern."""
    store, path = storage.filesystem(uri)
    matching = [re.compile(".*".join(map(re.escape, part.split("*")))) for part in parts]
    if isinstance(store, fs.LocalFileSystem):
        found = _matching(path, "", matching) if matching else _all_below(path)
        top, chosen = os.path.realpath(path), dict[str, str]()
        for name, real in sorted(found, key=lambda each: (os.path.join(top, each[0]) != each[1], each[0])):
            chosen.setdefault(real, name)  # a name without links comes first
        return list(chosen.values())
    try:
        infos = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{uri}: cannot be listed ({error}); check the access to it") from None
    names = [info.path[len(path.rstrip("/")) + 1 :] for info in infos if info.type == fs.FileType.File]
    split = [(name, name.split("/")) for name in names]
    return [name for name, levels in split if not any(map(_is_hidden, levels)) and _fits(levels, matching)]


def _fits(levels: Sequence[str], matching: Sequence[re.Pattern[str]]) -> bool:
    if not matching:
        return True
    return len(levels) == len(matching) and all(
        part.fullmatch(level) for part, level in zip(matching, levels, strict=True)
    )


def _all_below(top: str) -> Iterator[tuple[str, str]]:
    """Name and real path of the files below a local folder. Each real folder is listed once, so cycles end."""
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
            elif not f"{real}/".startswith(f"{target.rstrip('/')}/"):  # else the folder itself, or one above it
                linked.append((os.path.join(path, name), f"{prefix}{name}/"))


def _matching(path: str, prefix: str, matching: Sequence[re.Pattern[str]]) -> Iterator[tuple[str, str]]:
    """Name and real path of the files whose path below a local folder matches, one pattern for each level."""
    for name, target, is_folder, _ in _list(path, os.path.realpath(path), matching[0]):
        if is_folder and len(matching) > 1:
            yield from _matching(os.path.join(path, name), f"{prefix}{name}/", matching[1:])
        elif not is_folder and len(matching) == 1:
            yield f"{prefix}{name}", target


def _list(path: str, real: str, part: re.Pattern[str] | None = None) -> Iterator[tuple[str, str, bool, bool]]:
    """Name, real path, whether it is a folder and whether it is a link, of the matching entries of a local folder."""
    try:
        with os.scandir(path) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror}); give user {os.getuid()} access to it") from None
    for entry in entries:
        if _is_hidden(entry.name) or (part is not None and not part.fullmatch(entry.name)):
            continue
        is_link = entry.is_symlink()
        try:
            entry.stat()
        except OSError as error:
            if not is_link:  # removed since it was listed, or in a folder that may only be listed
                raise InputError(
                    f"{entry.path}: cannot be read ({error.strerror}); give user {os.getuid()} access to it"
                ) from None
            fix = "remove the link, or correct its target"
            raise InputError(
                f"{entry.path}: a link to {Path(entry.path).readlink()} ({error.strerror}); {fix}"
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
