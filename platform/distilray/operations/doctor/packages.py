"""Checks of Python and the installed packages: versions, the lock file, and whether native code loads."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from distilray.operations.doctor.check import SETUP, Finding, fail, ok, together, warn

PROJECT = "distilray"
NATIVE = ("numpy", "pyarrow", "pydantic_core", "ray", "rensa", "safetensors", "scipy", "tokenizers", "torch")
_MIN_PYTHON = (3, 11)
_MIN_EXPAT = (2, 4, 1)  # the first that stops entities which grow without end
_SHOWN = 6
_IMPORT_S = 10.0
_SHOWN_CHARACTERS = 300
_IMPORT = """
try:
    import {0}
    assert getattr({0}, "__file__", None), "its folder is there, its code is not"
except BaseException as error:
    raise SystemExit(print(type(error).__name__, error, sep=": ") or 1)
"""

Installed = Callable[[str], "str | None"]


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def checkout_of(module_file: Path) -> Path | None:
    """Return the root of the checkout that contains a module of `platform/distilray`, None for an installed one."""
    root = module_file.absolute().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "platform").is_dir() else None


def requirements_of(checkout: Path | None) -> list[str]:
    """Return the requirements of the checkout, else of the installed wheel, without extras."""
    if checkout is not None:
        import tomllib

        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [str(each) for each in project["dependencies"]]
    return [each for each in metadata.requires(PROJECT) or [] if "extra ==" not in each]


def check_python(version: Sequence[int]) -> Finding:
    text, needed = _dotted(version[:3]), _dotted(_MIN_PYTHON)
    if tuple(version[:2]) < _MIN_PYTHON:
        return fail(f"Python {text}, {needed} or newer is needed", f"make PYTHON=/path/to/python{needed} setup")
    return ok(f"Python {text}")


def check_expat(version: Sequence[int]) -> Finding:
    text = _dotted(version)
    if tuple(version) < _MIN_EXPAT:
        fix = f"use a Python that is built with {_dotted(_MIN_EXPAT)} or newer"
        return fail(f"expat {text}: a dump can exhaust the memory", fix)
    return ok(f"expat {text}")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def check_packages(checkout: Path | None, installed: Installed) -> Finding:
    """Check that the requirements are installed, in supported versions."""
    try:
        return check_bounds(requirements_of(checkout), installed)
    except ImportError as error:  # packaging, or tomllib before Python 3.11
        found = f"not compared with pyproject.toml ({error}); they are probably not installed for this Python"
        return fail(found, SETUP)


def check_bounds(requirements: Sequence[str], installed: Installed) -> Finding:
    from packaging.requirements import Requirement

    findings = []
    for requirement in map(Requirement, requirements):
        name, version, bounds = requirement.name, installed(requirement.name), str(requirement.specifier)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found = f"{name} is not installed" if version is None else f"{name} {version}, {bounds} needed"
            findings.append(fail(found, f"pip install '{name}{bounds}'"))
    return together(findings, f"{len(requirements)} packages within the bounds of pyproject.toml")


def pins_of(lock: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of the packages that a lock file has for this Python and system."""
    from packaging.requirements import Requirement

    for line in lock.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.partition("--hash=")[0].strip())
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def check_lock(lock: str, installed: Installed) -> Finding:
    """Compare the installed packages with the tested ones; builds of torch differ after a plus sign."""
    from packaging.version import Version

    pins = dict(pins_of(lock))
    versions = {name: installed(name) for name in sorted(pins)}
    other = {
        name: v for name, v in versions.items() if v is not None and Version(v).public != Version(pins[name]).public
    }
    if not other:
        return ok(f"{len(pins):,} packages as in requirements.lock")
    names = list(other)[:_SHOWN]
    listed = ", ".join(f"{name} {other[name]} (tested: {pins[name]})" for name in names)
    found = f"other versions than in requirements.lock: {listed}"
    if len(other) > _SHOWN:
        return warn(f"{found} and {len(other) - _SHOWN} more", "make setup")
    return warn(found, f"pip install {' '.join(f'{name}=={pins[name]}' for name in names)} (or make setup)")


def check_shadow(imported: Path, checkout: Path | None) -> Finding:
    """Check that the code of the checkout runs.

    Args:
        imported: folder of the package `distilray` of this process.
        checkout: the working directory, if it is a checkout.
    """
    if checkout is not None and imported != checkout / "platform" / PROJECT:
        fix = f"pip uninstall {PROJECT}; export PYTHONPATH=platform"
        return fail(f"distilray is imported from {imported}, not from this checkout", fix)
    return ok(f"distilray of {imported}")


def import_problems(packages: Sequence[str] = NATIVE, *, timeout_s: float = _IMPORT_S) -> dict[str, Finding]:
    """Import each installed package in its own process, since native code can end the process that loads it.

    Returns:
        A finding for every package that does not load, or not in time. Packages that are not installed are left out.
    """
    present = [name for name in packages if importlib.util.find_spec(name) or installed_version(name)]
    with ThreadPoolExecutor() as pool:
        findings = pool.map(lambda name: (name, _import(name, timeout_s)), present)
        return {name: finding for name, finding in findings if finding is not None}


def _import(package: str, timeout_s: float) -> Finding | None:
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
        return None
    if done.returncode < 0:
        reason = f"its import ends with {signal.Signals(-done.returncode).name}"
    else:
        reason = (done.stdout or done.stderr).strip()[-_SHOWN_CHARACTERS:] or f"exit code {done.returncode}"
    fix = f"pip install --force-reinstall --no-deps {package.replace('_', '-')}, in the version of requirements.lock"
    return fail(f"{package} does not load: {reason}", fix)
