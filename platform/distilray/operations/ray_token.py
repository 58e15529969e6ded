"""Ray's token on this machine: the variables and the file that Ray takes it from. It is never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODE, VALUE, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_DEFAULT_FILE = ".ray/auth_token"  # below the home folder


@dataclass(frozen=True)
class Token:
    """The token that a client of Ray would send.

    Attributes:
        value: never to be printed.
        origin: the variable or file that it comes from.
    """

    value: str = field(repr=False)
    origin: str


def token_file(environment: Mapping[str, str], home: Path) -> Path:
    """Where Ray looks for a file with the token."""
    given = environment.get(PATH)
    return Path(given).expanduser() if given else home / _DEFAULT_FILE


def find_token(environment: Mapping[str, str], home: Path) -> Token | None:
    """The token, sought where Ray seeks it: the variable before the file."""
    if value := environment.get(VALUE, "").strip():
        return Token(value, VALUE)
    file = token_file(environment, home)
    try:
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Token(value, str(file)) if value else None
