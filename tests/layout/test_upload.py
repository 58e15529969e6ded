"""Files uploaded to a cluster by `ray job submit --working-dir .`."""

from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

MAX_BYTES = 2_500_000


@pytest.fixture(scope="module")
def runtime_env(root: Path) -> dict[str, object]:
    return yaml.safe_load((root / "jobs" / "runtime_env.yaml").read_text(encoding="utf-8"))


def packed(folder: Path, excludes: object, target: Path) -> set[str]:
    """Create Ray's package of a folder, and return the names of its files."""
    assert isinstance(excludes, list)
    all_excludes = [*get_runtime_env_default_excludes(), *excludes]
    create_package(str(folder), target, include_gitignore=True, include_parent_dir=False, excludes=all_excludes)
    with ZipFile(target) as package:
        return set(package.namelist())


def plant(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_ray_accepts_the_runtime_environment(runtime_env: dict[str, object]) -> None:
    RuntimeEnv(**runtime_env)


def test_the_upload_of_this_folder_is_small(root: Path, runtime_env: dict[str, object], tmp_path: Path) -> None:
    packed(root, runtime_env["excludes"], tmp_path / "package.zip")
    assert (tmp_path / "package.zip").stat().st_size < MAX_BYTES


def test_the_upload_contains_the_code_and_the_recipes(
    checkout: Path, runtime_env: dict[str, object], tmp_path: Path
) -> None:
    names = packed(checkout, runtime_env["excludes"], tmp_path / "package.zip")
    required = {str(file.relative_to(checkout)) for top in ("platform", "jobs", "serve", "tuning")
            for file in (checkout / top).rglob("*") if file.is_file()}  # fmt: skip
    assert required <= names


def test_the_upload_contains_no_data_environment_or_history(
    checkout: Path, runtime_env: dict[str, object], tmp_path: Path
) -> None:
    foreign = [
        ".git/config",
        ".venv/bin/python",
        "runs/quickstart/model.safetensors",
        "tests/test_x.py",
        "build/lib/x.py",
    ]
    plant(checkout, *foreign)
    names = packed(checkout, runtime_env["excludes"], tmp_path / "package.zip")
    assert not names & set(foreign)


def test_without_the_runtime_environment_no_data_is_uploaded_either(checkout: Path, tmp_path: Path) -> None:
    foreign = [".git/config", ".venv/bin/python", "runs/quickstart/model.safetensors"]
    plant(checkout, *foreign)
    assert not packed(checkout, [], tmp_path / "package.zip") & set(foreign)
