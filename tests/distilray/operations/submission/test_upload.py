from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from distilray.errors import InputError
from distilray.operations.submission.client import uploaded_files
from distilray.operations.submission.upload import Upload

FILES = [
    "code.py", ".git/config", ".venv/bin/python", "pkg/__pycache__/x.pyc", "runs/model.bin", "notes/a.log",
    "notes/keep.txt", "notes/.gitignore", "data/big.bin", "deep/er/x.tmp", ".rayignore", ".gitignore", "drop/x",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    (root / ".gitignore").write_text("runs/\n*.tmp\n")
    (root / ".rayignore").write_text("/data\n")
    (root / "notes" / ".gitignore").write_text("*.log\n")
    return root


def test_the_listing_is_what_ray_packs(folder: Path, tmp_path: Path) -> None:
    excludes = [*get_runtime_env_default_excludes(), "/drop"]
    create_package(str(folder), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    with ZipFile(tmp_path / "package.zip") as package:
        packed = sorted((entry.filename, entry.file_size) for entry in package.infolist() if not entry.is_dir())
    assert uploaded_files(folder, ("/drop",)) == packed
    assert {name for name, _ in packed} == {
        "code.py", "notes/keep.txt", "notes/.gitignore", ".rayignore", ".gitignore"
    }  # fmt: skip


def test_a_small_upload_is_told_by_files_and_size() -> None:
    upload = Upload([("a", 1_500_000), ("b", 200_000)])
    upload.check()
    assert str(upload) == "2 files, 1.7 MB"


def test_a_large_upload_is_refused_with_its_largest_files() -> None:
    upload = Upload([("small", 1), ("dump.xml", 15_000_000), ("b/model.bin", 6_000_000), ("c", 2), ("d", 3)])
    with pytest.raises(
        InputError, match=r"5 files, 21.0 MB, more than 20 MB; the largest are dump.xml \(15.0 MB\), b/model.bin \("
    ):
        upload.check()


def test_an_upload_without_the_recipe_is_refused() -> None:
    upload = Upload([("jobs/recipes/a.yaml", 1)])
    upload.check_holds("jobs/recipes/a.yaml", "the recipe")
    with pytest.raises(InputError, match=r"^runs/best.yaml: the upload leaves it out .* copy it to jobs/recipes/"):
        upload.check_holds("runs/best.yaml", "the recipe")
