"""What a config says of places: which of them a cluster could not find, and whether one is on a hub."""

import re
from collections.abc import Iterator
from typing import Any

from distilray.config.base import Config, JobConfig
from distilray.errors import InputError
from distilray.runtime.sample import HUB_PREFIX, SAMPLE_PREFIX
from distilray.runtime.storage import SCHEMES

# Ends of the keys that say where something lies; `models` holds places by names of the user's choice.
_PLACES = ("path", "paths", "_dir", "models")
_LOGIN = re.compile(r"://[^/\s]*@")
_SHARED = "/mnt/shared"  # an example of a place that every machine of a cluster sees


def places(config: Config, front: str = "") -> Iterator[tuple[str, str]]:
    """The places that a config names, as dotted key and value."""
    for name, value in config:
        yield from _places(f"{front}{name}", value, is_place=name.endswith(_PLACES))


def check_places(config: JobConfig) -> None:
    """Refuses places that are not the same on every machine of a cluster.

    A relative folder would lie in the unpacked upload, on one machine, and be deleted with it.

    Raises:
        InputError: names the first key, the fix, and the other keys.
    """
    for key, value in places(config):
        if has_login(value):
            raise InputError(f"{key}: a login in a URI, which job listings would show; use --secrets PATH or a role")
        scheme, separator, _ = value.partition("://")
        if separator and scheme not in SCHEMES:
            raise InputError(f"{key}={value}: scheme '{scheme}' is not one of {', '.join(SCHEMES)}")
    wrong = [(key, value) for key, value in places(config) if not _is_shared(value)]
    if not wrong:
        return
    key, value = wrong[0]
    also = f" (likewise {', '.join(other for other, _ in wrong[1:])})" if wrong[1:] else ""
    example = f"{_SHARED}/{value.removeprefix('~').lstrip('./')}".rstrip("/")
    raise InputError(
        f"{key}={value}: relative, so on a cluster it would be inside the unpacked upload of one machine; give a path "
        f"or URI that all its machines see, for instance {example}{also}"
    )


def has_login(text: str) -> bool:
    """Return whether a text contains a URI with a user, password or token before its host."""
    return _LOGIN.search(text) is not None


def _places(key: str, value: Any, *, is_place: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, Config):
        yield from places(value, f"{key}.")
    elif isinstance(value, str) and is_place:
        yield key, value
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _places(f"{key}.{index}", part, is_place=is_place)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _places(f"{key}.{name}", part, is_place=is_place)


def _is_shared(value: str) -> bool:
    return value.startswith(("/", SAMPLE_PREFIX, HUB_PREFIX)) or "://" in value
