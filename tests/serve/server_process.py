"""The service in a separate process, started with its job, because a process cannot change its proxy."""

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


def start_server(model_dir: str, *overrides: str, port: int = 0) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server, by default on a free port, and return it with the URL that it printed.

    Other processes may take a free port before the server does, so tests that run beside others set one.
    """
    # Another service of this process may have set variables for Ray Serve.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.serve_fill_mask", f"app.model_dir={model_dir}", f"port={port}", *overrides],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT / "platform")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    output = read_until(process, b"Ctrl-C")
    match = re.search(rb" at (http://\S+) until", output)
    assert match, output
    return process, match[1].decode()


def read_until(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    """Return the output of a process up to the end of the lines that contain a word."""
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
def running_server(model_dir: str, *overrides: str, port: int = 0) -> Iterator[str]:
    """Run a server until the block ends, and yield its URL."""
    process, url = start_server(model_dir, *overrides, port=port)
    with process:
        try:
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
