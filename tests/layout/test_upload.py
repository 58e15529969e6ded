"""Files uploaded to a cluster by `ray job submit --working-dir .`."""

from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

from tests.layout.source_code import CODE

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


def test_the_upload_of_this_folder_is_accepted_and_small(
    root: Path, runtime_env: dict[str, object], tmp_path: Path
) -> None:
    RuntimeEnv(**runtime_env)
    packed(root, runtime_env["excludes"], tmp_path / "package.zip")
    assert (tmp_path / "package.zip").stat().st_size < MAX_BYTES


def test_the_upload_contains_the_code_and_no_data_environment_or_history(
    checkout: Path, runtime_env: dict[str, object], tmp_path: Path
) -> None:
    files = [file for top in CODE for file in (checkout / top).rglob("*") if file.is_file()]
    foreign = {".git/config", ".venv/bin/python", "runs/quickstart/model.safetensors"}
    with_settings = foreign | {"tests/test_x.py", "build/lib/x.py"}
    for name in with_settings:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x")
    names = packed(checkout, runtime_env["excludes"], tmp_path / "package.zip")
    assert {str(file.relative_to(checkout)) for file in files} <= names
    assert not names & with_settings
    # The files of .gitignore are excluded without the runtime environment, too.
    assert not packed(checkout, [], tmp_path / "other.zip") & foreign
