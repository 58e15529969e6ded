"""Imports have no side effects."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib, logging, pkgutil, sys
seen = []

def watch(event, args):
    # Some packages bind port 0 to check for IPv6 support.
    if event == "socket.connect" or (event == "socket.bind" and args[1][1] != 0):
        seen.append((event, args[1]))

sys.addaudithook(watch)

for top in ("distilray", "jobs", "serve", "tuning"):
    for module in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        importlib.import_module(module.name)
import ray
assert not ray.is_initialized(), "an import starts Ray"
assert not seen, f"an import opens a connection: {seen}"
assert not logging.getLogger().handlers, "an import sets up logging"
"""


def test_importing_any_module_starts_writes_and_prints_nothing(root: Path, tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    path = os.pathsep.join([str(root), str(root / "platform")])
    keep = {name: value for name, value in os.environ.items() if name not in {"HF_HOME", "XDG_CACHE_HOME"}}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=here,
        env={**keep, "HOME": str(home), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout == ""
    assert not list(here.iterdir())
    assert not list(home.iterdir())
