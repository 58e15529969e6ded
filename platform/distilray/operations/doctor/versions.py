"""The packages that are installed, beside those that the project was tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from distilray.operations.doctor.check import SETUP, Finding, fail, ok, together, warn

PROJECT = "distilray"
MIN_PYTHON = (3, 11)
MIN_EXPAT = (2, 4, 1)  # the first that stops entities which grow without end
_SHOWN = 6

Installed = Callable[[str], "str | None"]


def installed_version(package: str) -> str | None:
    """The version of a package of this environment, None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def checkout_of(module_file: Path) -> Path | None:
    """The root of the checkout that a module of `platform/distilray` lies in, None when it was installed."""
    root = module_file.absolute().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "platform").is_dir() else None


def requirements_of(checkout: Path | None) -> list[str]:
    """What the project needs, extras left out: of the checkout, else of the installed wheel."""
    if checkout is not None:
        import tomllib

        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [str(each) for each in project["dependencies"]]
    return [each for each in metadata.requires(PROJECT) or [] if "extra ==" not in each]


def check_python(version: Sequence[int]) -> Finding:
    """The interpreter is one that the code is written for."""
    told = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        return fail(f"Python {told}, {needed} or newer is needed", f"make PYTHON=/path/to/python{needed} setup")
    return ok(f"Python {told}")


def check_packages(checkout: Path | None, installed: Installed) -> Finding:
    """Every required package is installed, in a supported version; see `check_bounds`."""
    try:
        return check_bounds(requirements_of(checkout), installed)
    except ImportError as error:  # packaging, or tomllib before Python 3.11
        found = f"not compared with pyproject.toml ({error}); they are probably not installed for this Python"
        return fail(found, SETUP)


def check_bounds(requirements: Sequence[str], installed: Installed) -> Finding:
    """Every package that is needed is there, in a version that the code is known to run with."""
    from packaging.requirements import Requirement

    findings = []
    for requirement in map(Requirement, requirements):
        version = installed(requirement.name)
        bounds = str(requirement.specifier)
        if version is None:
            findings.append(fail(f"{requirement.name} is not installed", f"pip install '{requirement.name}{bounds}'"))
        elif not requirement.specifier.contains(version, prereleases=True):
            findings.append(
                fail(f"{requirement.name} {version}, {bounds} needed", f"pip install '{requirement.name}{bounds}'")
            )
    return together(findings, f"{len(requirements)} packages within the bounds of pyproject.toml")


def pins_of(lock: str) -> Iterator[tuple[str, str]]:
    """Name and version of the packages of a lock file that this Python and system would get."""
    from packaging.requirements import Requirement

    for line in lock.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.partition("--hash=")[0].strip())
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def check_lock(lock: str, installed: Installed) -> Finding:
    """The packages that are installed are those that the tests have run with."""
    from packaging.version import Version

    pins = dict(pins_of(lock))
    versions = {name: installed(name) for name in pins}
    # The builds of torch say after a plus sign what they are for.
    other = {
        name: v for name, v in versions.items() if v is not None and Version(v).public != Version(pins[name]).public
    }
    if not other:
        return ok(f"{len(pins):,} packages as in requirements.lock")
    told = [f"{name} {version} (tested: {pins[name]})" for name, version in sorted(other.items())]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    pinned = " ".join(f"{name}=={pins[name]}" for name in sorted(other)[:_SHOWN])
    fix = "make setup" if more else f"pip install {pinned} (or make setup)"
    return warn(f"other versions than in requirements.lock: {', '.join(told[:_SHOWN])}{more}", fix)


def check_expat(version: Sequence[int]) -> Finding:
    """The parser of dumps stops entities that expand without end."""
    told = ".".join(map(str, version))
    if tuple(version) < MIN_EXPAT:
        needed = ".".join(map(str, MIN_EXPAT))
        return fail(
            f"expat {told}: a dump can exhaust the memory", f"use a Python that is built with {needed} or newer"
        )
    return ok(f"expat {told}")


def wheel_folder() -> Path | None:
    """Where a wheel of this project is installed; None where there is none, or only a link to a checkout."""
    for found in metadata.distributions(name=PROJECT):
        package = Path(str(found.locate_file(PROJECT)))
        if (package / "__init__.py").is_file() and package.parent.name != "platform":
            return package
    return None


def check_shadow(imported: Path, checkout: Path | None, wheel: Path | None) -> Finding:
    """The code that runs is that of the checkout.

    Args:
        imported: folder of the package `distilray` of this process.
        checkout: the working directory, if it is a checkout.
        wheel: folder of an installed `distilray`.
    """
    if checkout is not None and imported != checkout / "platform" / PROJECT:
        return fail(
            f"distilray is imported from {imported}, not from this checkout",
            f"pip uninstall {PROJECT}; export PYTHONPATH=platform",
        )
    if checkout is not None and wheel is not None:
        return warn(f"{wheel} is installed beside the checkout, and may be an older one", f"pip uninstall {PROJECT}")
    return ok(f"distilray of {imported}")
