"""Installed packages that do not load: incomplete, built for another libc, or without a library or CPU feature."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from distilray.operations.doctor.check import Finding, fail, ok, warn
from distilray.operations.doctor.versions import installed_version

NATIVE = ("numpy", "pyarrow", "pydantic_core", "ray", "rensa", "safetensors", "scipy", "tokenizers", "torch")
_TIMEOUT_S = 10.0
_SHOWN_CHARACTERS = 300
_IMPORT = """
try:
    import {0}
    assert getattr({0}, "__file__", None), "its folder is there, its code is not"
except BaseException as error:
    raise SystemExit(print(type(error).__name__, error, sep=": ") or 1)
"""


def import_problems(packages: Sequence[str] = NATIVE, *, timeout_s: float = _TIMEOUT_S) -> dict[str, Finding]:
    """Import each installed package in its own process, since native code can end the process that loads it.

    Returns:
        A finding for every package that does not load, or not in time. Packages that are not installed are left out.
    """
    present = [name for name in packages if importlib.util.find_spec(name) or installed_version(name)]
    with ThreadPoolExecutor() as pool:
        findings = pool.map(lambda name: (name, _import(name, timeout_s)), present)
        return {name: finding for name, finding in findings if finding.status != "ok"}


def _import(package: str, timeout_s: float) -> Finding:
    command = [sys.executable, "-c", _IMPORT.format(package)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        found = f"{package} does not load within {timeout_s:g} s"
        return warn(found, "see whether this machine, or the disk of its packages, is busy")
    if done.returncode == 0:
        return ok(package)
    if done.returncode < 0:
        reason = f"its import ends with {signal.Signals(-done.returncode).name}"
    else:
        reason = (done.stdout or done.stderr).strip()[-_SHOWN_CHARACTERS:] or f"exit code {done.returncode}"
    fix = f"pip install --force-reinstall --no-deps {package.replace('_', '-')}, in the version of requirements.lock"
    return fail(f"{package} does not load: {reason}", fix)
