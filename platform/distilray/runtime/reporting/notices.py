"""Things that people should know at once, told by any process of a run and shown by the one that they look at."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable

from distilray.runtime import storage

NOTICES_FOLDER = "notices"

log = logging.getLogger(__name__)


def post_notice(run_uri: str, text: str) -> None:
    """Tells something: in the log of this process, and as a file in the folder of the run."""
    log.warning("%s", text)
    now = time.time_ns()
    record = {"time": now / 1e9, "text": text}
    storage.write_bytes(storage.join(run_uri, NOTICES_FOLDER, f"{now}-{os.getpid()}.json"), json.dumps(record).encode())


def read_notices(run_uri: str) -> list[str]:
    """What was told in a run, in the order of time."""
    return [text for _, text in _read(run_uri)]


class NoticeFollower:
    """Calls back with each notice that comes while the block runs. Use it as a context manager."""

    def __init__(self, run_uri: str, on_notice: Callable[[str], None], interval_s: float = 1.0) -> None:
        self._run_uri, self._on_notice, self._interval_s = run_uri, on_notice, interval_s
        self._known = {name for name, _ in _read(run_uri)}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="notices", daemon=True)

    def __enter__(self) -> "NoticeFollower":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._show()

    def _follow(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        for name, text in _read(self._run_uri, self._known):
            self._known.add(name)
            self._on_notice(text)


def _read(run_uri: str, known: set[str] | None = None) -> list[tuple[str, str]]:
    """Name and text of the notices that are not known yet."""
    folder = storage.join(run_uri, NOTICES_FOLDER)
    if not storage.exists(folder):
        return []
    names = [file.rpartition("/")[2] for file in storage.list_files(folder, ".json")]
    new = sorted(set(names) - (known or set()))
    return [(name, json.loads(storage.read_bytes(storage.join(folder, name)))["text"]) for name in new]
