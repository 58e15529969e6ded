"""Rows of a data file that cannot be used: left out with a reason, counted, and refused when there are too many."""

import logging
from collections import Counter

from distilray.errors import DataQualityError

_PLACES = 10

log = logging.getLogger(__name__)


class BadRows:
    """What was left out of a file, by reason."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self._places: list[str] = []
        self._first: dict[str, str] = {}

    def add(self, place: str, reason: str) -> None:
        """Leaves out a row; `place` tells where it stands: `line 12`."""
        self.counts[reason] += 1
        self._first.setdefault(reason, place)
        if len(self._places) < _PLACES:
            self._places.append(f"{self.file}, {place}: {reason}")

    def check(self, kept: int, max_fraction: float) -> None:
        """Accepts what was left out of a file of which `kept` rows remain.

        Raises:
            DataQualityError: it is more than the given share, or nothing remains.
        """
        bad = self.counts.total()
        if not kept or bad > max_fraction * (kept + bad):
            problem = (
                f"{bad:,} of {kept + bad:,} rows cannot be used, allowed are {max_fraction:.1%} (max_bad_fraction)"
            )
            raise DataQualityError(f"{self.file}: {problem}", self._places)

    def tell(self) -> None:
        """Logs one line for each reason, with the first row that it befell."""
        for reason, count in self.counts.items():
            log.warning("%s, %s: %s; %d row(s) left out for it", self.file, self._first[reason], reason, count)
