"""Unusable rows: skipped, counted by reason, and an error if there are too many."""

import logging
from collections import Counter
from dataclasses import dataclass

from distilray.errors import DataQualityError

_MAX_LISTED = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadRow:
    """Unusable input: a row, a document, or a damaged section of a file.

    Attributes:
        file: name of the file.
        offset: start, in bytes of the stored file (start of the compressed stream or block that contains it).
        reason: short code for counting: `bz2_damaged`, `xml_malformed`, `too_large`, `not_utf8`, ...
        detail: user-facing description in one line.
        lost_bytes: bytes of the stored file that could not be read; 0 for a row that was read and rejected.
        row: number of the row or line, from 1; 0 if unknown.
    """

    file: str
    offset: int
    reason: str
    detail: str
    lost_bytes: int = 0
    row: int = 0


class BadRows:
    """Skipped rows of a file, counted by reason."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self._listed: list[str] = []
        self._first: dict[str, str] = {}

    def add(self, position: str, reason: str) -> None:
        """Record a skipped row at a position such as `line 12`."""
        self.counts[reason] += 1
        self._first.setdefault(reason, position)
        if len(self._listed) < _MAX_LISTED:
            self._listed.append(f"{self.file}, {position}: {reason}")

    def check(self, kept: int, max_fraction: float) -> None:
        """Check the share of bad rows in a file with `kept` usable rows.

        Raises:
            DataQualityError: the share exceeds `max_fraction`, or there is no usable row.
        """
        bad = self.counts.total()
        if not kept or bad > max_fraction * (kept + bad):
            problem = (
                f"{bad:,} of {kept + bad:,} rows cannot be used; the limit is {max_fraction:.1%} (max_bad_fraction)"
            )
            raise DataQualityError(f"{self.file}: {problem}", self._listed)

    def log(self) -> None:
        """Log one line per reason, with the first row that was skipped for it."""
        for reason, count in self.counts.items():
            log.warning("%s, %s: %s; %d row(s) skipped for this reason", self.file, self._first[reason], reason, count)
