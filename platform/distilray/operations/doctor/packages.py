"""Checks of Python and the installed packages: versions, lock file and imports of native code."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from distilray.operations.doctor.check import SETUP, Finding, combine, fail, ok, warn

PROJECT = "distilray"
NATIVE = ("numpy", "pyarrow", "pydantic_core", "ray", "rensa", "safetensors", "scipy", "tokenizers", "torch")
_MIN_PYTHON = (3, 11)
_MIN_EXPAT = (2, 4, 1)  # the first that limits the expansion of entities
_MAX_LISTED = 6
_IMPORT_TIMEOUT_S = 10.0
_MAX_CHARACTERS = 300
_IMPORT_CODE = """
try:
    import {0}
    assert getattr({0}, "__file__", None), "its folder exists, but its code does not"
except BaseException as error:
    print(type(error).__name__, error, sep=": ")
    raise SystemExit(1)
"""

Installed = Callable[[str], "str | None"]


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def checkout_of(module_file: Path) -> Path | None:
    """Return the root of the checkout that contains a module of `platform/distilray`, or None if it is installed."""
    root = module_file.absolute().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "platform").is_dir() else None


def requirements_of(checkout: Path | None) -> list[str]:
    """Return the requirements of the checkout or, without one, of the installed wheel, excluding extras."""
    if checkout is not None:
        import tomllib

        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [str(requirement) for requirement in project["dependencies"]]
    return [requirement for requirement in metadata.requires(PROJECT) or [] if "extra ==" not in requirement]


def check_python(version: Sequence[int]) -> Finding:
    text, needed = _dotted(version[:3]), _dotted(_MIN_PYTHON)
    if tuple(version[:2]) < _MIN_PYTHON:
        return fail(f"Python {text}, but {needed} or newer is required", f"make PYTHON=/path/to/python{needed} setup")
    return ok(f"Python {text}")


def check_expat(version: Sequence[int]) -> Finding:
    text = _dotted(version)
    if tuple(version) < _MIN_EXPAT:
        fix = f"use a Python built with expat {_dotted(_MIN_EXPAT)} or newer"
        return fail(f"expat {text}: a malicious dump can exhaust the memory", fix)
    return ok(f"expat {text}")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def check_packages(checkout: Path | None, installed: Installed) -> Finding:
    """Check that supported versions of all requirements are installed."""
    try:
        return check_bounds(requirements_of(checkout), installed)
    except ImportError as error:  # of packaging, or of tomllib before Python 3.11
        message = f"not compared with pyproject.toml ({error}); the packages are probably not installed for this Python"
        return fail(message, SETUP)


def check_bounds(requirements: Sequence[str], installed: Installed) -> Finding:
    from packaging.requirements import Requirement

    findings = []
    for requirement in map(Requirement, requirements):
        name, version, bounds = requirement.name, installed(requirement.name), str(requirement.specifier)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            message = f"{name} is not installed" if version is None else f"{name} {version}, but {bounds} is required"
            findings.append(fail(message, f"pip install '{name}{bounds}'"))
    return combine(findings, f"{len(requirements)} packages within the bounds of pyproject.toml")


def pins_of(lock: str) -> Iterator[tuple[str, str]]:
    """Yield the names and versions that a lock file pins for this Python and operating system."""
    from packaging.requirements import Requirement

    for line in lock.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.partition("--hash=")[0].strip())
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def check_lock(lock: str, installed: Installed) -> Finding:
    """Compare the installed versions with the tested ones, ignoring local versions (`+cpu` of torch)."""
    from packaging.version import Version

    pins = dict(pins_of(lock))
    versions = {name: installed(name) for name in sorted(pins)}
    different = {
        name: v for name, v in versions.items() if v is not None and Version(v).public != Version(pins[name]).public
    }
    if not different:
        return ok(f"{len(pins):,} packages match requirements.lock")
    names = list(different)[:_MAX_LISTED]
    listed = ", ".join(f"{name} {different[name]} (tested: {pins[name]})" for name in names)
    message = f"versions differ from requirements.lock: {listed}"
    if len(different) > _MAX_LISTED:
        return warn(f"{message} and {len(different) - _MAX_LISTED} more", "make setup")
    return warn(message, f"pip install {' '.join(f'{name}=={pins[name]}' for name in names)} (or make setup)")


def check_shadow(imported: Path, checkout: Path | None) -> Finding:
    """Check that no installed copy of distilray shadows the checkout.

    Args:
        imported: folder from which `distilray` was imported.
        checkout: working directory if it is a checkout, else None.
    """
    if checkout is not None and imported != checkout / "platform" / PROJECT:
        fix = f"pip uninstall {PROJECT}; export PYTHONPATH=platform"
        return fail(f"distilray is imported from {imported}, not from this checkout", fix)
    return ok(f"distilray is imported from {imported}")


def import_problems(packages: Sequence[str] = NATIVE, *, timeout_s: float = _IMPORT_TIMEOUT_S) -> dict[str, Finding]:
    """Import each installed package in its own process, since native code can crash the process that loads it.

    Returns:
        A finding for every installed package whose import fails or times out.
    """
    installed = [name for name in packages if importlib.util.find_spec(name) or installed_version(name)]
    with ThreadPoolExecutor() as pool:
        findings = pool.map(lambda name: (name, _import_problem(name, timeout_s)), installed)
        return {name: finding for name, finding in findings if finding is not None}


def _import_problem(package: str, timeout_s: float) -> Finding | None:
    command = [sys.executable, "-c", _IMPORT_CODE.format(package)]
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        message = f"the import of {package} took more than {timeout_s:g} s"
        return warn(message, "check whether this machine or the disk with its packages is busy")
    if process.returncode == 0:
        return None
    if process.returncode < 0:
        reason = f"killed by {signal.Signals(-process.returncode).name}"
    else:
        reason = (process.stdout or process.stderr).strip()[-_MAX_CHARACTERS:] or f"exit code {process.returncode}"
    fix = f"pip install --force-reinstall --no-deps {package.replace('_', '-')}, with the version in requirements.lock"
    return fail(f"{package} cannot be imported: {reason}", fix)
