"""Metrics files: one JSON object per line, written by one process and followed by another."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from distilray.errors import writing
from distilray.runtime import storage

Row = Mapping[str, Any]


def read_metrics(uri: str) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, without an incomplete last line; empty if the file does not exist."""
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
    """Writer of a metrics file.

    Args:
        uri: the file. Rows are appended to a local file; in an object store the whole file is rewritten.
        keep_to_step: drop the rows of later steps, which a resumed run writes again.
    """

    def __init__(self, uri: str, keep_to_step: int) -> None:
        self._uri = uri
        self._lines = [json.dumps(row) for row in read_metrics(uri) if row["step"] <= keep_to_step]
        self._is_local = storage.is_local(uri)
        self._write_all()

    def append(self, row: Row) -> None:
        self._lines.append(json.dumps(row))
        if self._is_local:
            with writing(self._uri), storage.local_path(self._uri).open("a", encoding="utf-8") as file:
                file.write(self._lines[-1] + "\n")
        else:
            self._write_all()

    def _write_all(self) -> None:
        storage.write_bytes(self._uri, "".join(line + "\n" for line in self._lines).encode())


class MetricsFollower:
    """Context manager that calls `on_row` with new rows of a metrics file, but not with those of earlier attempts."""

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
