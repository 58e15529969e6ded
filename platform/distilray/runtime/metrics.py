"""`metrics.jsonl`: one JSON object a line, written by one process and followed by another."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from distilray.errors import writing
from distilray.runtime import storage

Row = Mapping[str, Any]


def read_metrics(uri: str) -> list[dict[str, Any]]:
    """The rows of a metrics file, without a torn last line; empty when there is no file yet."""
    if not storage.exists(uri):
        return []
    rows = []
    for line in storage.read_bytes(uri).decode().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class MetricsLog:
    """Appends rows to a metrics file.

    Args:
        uri: the file; local files grow, an object is written anew with each row.
        keep_to_step: rows of later steps are dropped first: a resumed run writes them again.
    """

    def __init__(self, uri: str, keep_to_step: int) -> None:
        self._uri = uri
        self._lines = [json.dumps(row) for row in read_metrics(uri) if row["step"] <= keep_to_step]
        self._is_local = storage.is_local(uri)
        self._write_all()

    def append(self, row: Row) -> None:
        """Adds one row."""
        self._lines.append(json.dumps(row))
        if self._is_local:
            with writing(self._uri), storage.local_path(self._uri).open("a", encoding="utf-8") as file:
                file.write(self._lines[-1] + "\n")
        else:
            self._write_all()

    def _write_all(self) -> None:
        storage.write_bytes(self._uri, "".join(line + "\n" for line in self._lines).encode())


class MetricsFollower:
    """Calls back with the newest row of a metrics file while it grows, not with rows of earlier runs.

    Use it as a context manager.
    """

    def __init__(self, uri: str, on_row: Callable[[Row], None], interval_s: float = 1.0) -> None:
        self._uri, self._on_row, self._interval_s = uri, on_row, interval_s
        self._shown = self._newest()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="metrics", daemon=True)

    def __enter__(self) -> "MetricsFollower":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopped.wait(self._interval_s):
            row = self._newest()
            if row is not None and row != self._shown:
                self._shown = row
                self._on_row(row)

    def _newest(self) -> Row | None:
        rows = read_metrics(self._uri)
        return rows[-1] if rows else None
