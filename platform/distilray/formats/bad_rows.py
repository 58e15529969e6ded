"""Rows and other input that cannot be used: left out with a reason, counted, and refused when there are too many."""

import logging
from collections import Counter
from dataclasses import dataclass

from distilray.errors import DataQualityError

_LISTED = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadRow:
    """Input that cannot be used: a row, a document, or a damaged section of a file.

    Attributes:
        file: name of the file.
        offset: where it begins, in bytes of the file as stored (of the compressed stream or block that contains it).
        reason: one word for counting: `bz2_damaged`, `xml_malformed`, `too_large`, `not_utf8`, ...
        detail: user-facing description; one line.
        lost_bytes: bytes of the stored file that could not be read; 0 for a row that was read and refused.
        row: number of the row or line, from 1; 0 if unknown.
    """

    file: str
    offset: int
    reason: str
    detail: str
    lost_bytes: int = 0
    row: int = 0


class BadRows:
    """The rows of a file that were left out, counted by reason."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self._listed: list[str] = []
        self._first: dict[str, str] = {}

    def add(self, position: str, reason: str) -> None:
        """Leave out a row at a position such as `line 12`."""
        self.counts[reason] += 1
        self._first.setdefault(reason, position)
        if len(self._listed) < _LISTED:
            self._listed.append(f"{self.file}, {position}: {reason}")

    def check(self, kept: int, max_fraction: float) -> None:
        """Accept the bad rows of a file of which `kept` rows remain.

        Raises:
            DataQualityError: they are more than the given fraction, or no row remains.
        """
        bad = self.counts.total()
        if not kept or bad > max_fraction * (kept + bad):
            problem = (
                f"{bad:,} of {kept + bad:,} rows cannot be used, allowed are {max_fraction:.1%} (max_bad_fraction)"
            )
            raise DataQualityError(f"{self.file}: {problem}", self._listed)

    def log(self) -> None:
        """Log one line for each reason, with the first row that it applies to."""
        for reason, count in self.counts.items():
            log.warning("%s, %s: %s; %d row(s) left out for it", self.file, self._first[reason], reason, count)
