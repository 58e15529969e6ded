"""The service as a process of its own, as the job starts it: a process chooses its proxy when it starts."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S = 120
STOP_S = 40


def start_server(model_dir: str, *overrides: str) -> tuple[subprocess.Popen[bytes], str]:
    """A running server with the URL that it printed, on a free port unless an override names one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.serve_fill_mask", f"app.model_dir={model_dir}", "port=0", *overrides],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    printed = read_until(process, b"Ctrl-C")
    found = re.search(rb" at (http://\S+) until", printed)
    assert found, printed
    return process, found[1].decode()


def clean_environment() -> dict[str, str]:
    """The environment without what another service of this process has set for Ray Serve."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    return {**kept, "PYTHONPATH": str(ROOT / "platform")}


def read_until(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    """What a process prints, up to the end of the line or lines that it prints with a word."""
    assert process.stdout is not None
    end = time.monotonic() + START_S
    text = b""
    while not (word in text and text.endswith(b"\n")):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not chunk:
            process.kill()
            raise AssertionError(text.decode())
        text += chunk
    return text


@contextlib.contextmanager
def running_server(model_dir: str, *overrides: str) -> Iterator[str]:
    """The URL of a server that runs until the block ends."""
    process, url = start_server(model_dir, *overrides)
    with process:
        try:
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
