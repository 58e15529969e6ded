"""Check of the locations in a config: a cluster must be able to find each of them."""

import re
from collections.abc import Iterator

from distilray.config.base import Config, JobConfig, locations
from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX
from distilray.errors import InputError
from distilray.runtime.storage import SCHEMES

_LOGIN = re.compile(r"://[^/\s]*@")
_SHARED = "/mnt/shared"  # an example of a place that every machine of a cluster sees


def places(config: Config) -> Iterator[tuple[str, str]]:
    """The locations that all machines must see, as dotted key and value."""
    return ((key, value) for key, value, mark in locations(config) if mark.is_shared)


def check_places(config: JobConfig) -> None:
    """Refuses places that are not the same on every machine of a cluster.

    A relative folder would be in the unpacked upload, on one machine, and be deleted with it; `~` would be the home
    folder of one machine.

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
    is_home = value.startswith("~")
    reason = "the home folder" if is_home else "relative, so on a cluster it would be inside the unpacked upload"
    raise InputError(
        f"{key}={value}: {reason} of one machine; give a path or URI that all machines see, for instance "
        f"{example}{also}"
    )


def has_login(text: str) -> bool:
    """Return whether a text contains a URI with a user, password or token before its host."""
    return _LOGIN.search(text) is not None


def _is_shared(value: str) -> bool:
    return value.startswith(("/", SAMPLE_PREFIX, HUB_PREFIX)) or "://" in value
