import json

import pytest

from jobs import encode_corpus
from tests.tiny.corpus import write_corpus
from tests.tiny.models import write_tokenizer
from tests.tiny.recipes import write_recipe


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose inputs are all good."""
    write_corpus(tmp_path / "corpus", 12)
    write_tokenizer(tmp_path / "tokenizer")
    folders = {f"{name}_dir": str(tmp_path / name) for name in ("corpus", "tokenizer")}
    return write_recipe(tmp_path, run_dir=str(tmp_path / "run"), max_seq_length=32, heldout_fraction=0.2, **folders)


def refusal(capfd, *arguments):
    """The one line on stderr of a refused command that has completed nothing."""
    assert encode_corpus.main(["--recipe", *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_dry_run_prints_the_plan_and_writes_nothing(recipe, tmp_path, capsys):
    assert encode_corpus.main(["--recipe", recipe, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "12 documents" in out
    assert "20.0% of the documents" in out
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_a_manifest_is_one_line_that_names_it(recipe, tmp_path, capfd):
    (tmp_path / "corpus/manifest.json").unlink()
    line = refusal(capfd, recipe)
    assert f"{tmp_path}/corpus" in line
    assert "manifest.json" in line


def test_a_missing_tokenizer_is_one_line_that_names_it(recipe, tmp_path, capfd):
    line = refusal(capfd, recipe, f"tokenizer_dir={tmp_path}/none")
    assert f"{tmp_path}/none/tokenizer.json" in line


def test_a_broken_tokenizer_is_reported_in_one_line_that_names_it(recipe, tmp_path, capfd):
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")
    assert f"{tmp_path}/tokenizer/tokenizer.json: not a tokenizer" in refusal(capfd, recipe)


def test_a_corpus_of_another_job_is_reported_in_one_line_that_names_it(recipe, tmp_path, capfd):
    file = tmp_path / "corpus/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["content"]["job"] = "distill"
    file.write_text(json.dumps(manifest))
    assert f"{tmp_path}/corpus: written by distill, not by build_corpus" in refusal(capfd, recipe)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("masking.keep_share=0.2", "must be 1, not 1.1"),
        ("masking.mlm_probability=0", "masking.mlm_probability"),
        ("max_seq_length=8", "max_seq_length"),
        ("dupe_factor=0", "dupe_factor"),
        ("heldout_fraction=1", "heldout_fraction"),
        ("seed=-1", "seed"),
        ("max_seq_len=64", "did you mean 'max_seq_length'"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(recipe, capfd, override, reason):
    assert reason in refusal(capfd, recipe, override)


def test_a_key_of_pairs_is_refused_where_there_are_none(recipe, capfd):
    assert "single_sentence_documents: mode 'paper' has no pairs" in refusal(
        capfd, recipe, "mode=paper", "single_sentence_documents=drop"
    )


def test_a_dry_run_refuses_what_the_run_would_refuse(recipe, tmp_path, capfd):
    write_corpus(tmp_path / "single", 1, files=1)
    assert "1 document(s)" in refusal(capfd, recipe, f"corpus_dir={tmp_path}/single", "heldout_fraction=0", "--dry-run")


@pytest.mark.slow
def test_a_corpus_of_one_document_is_reported_in_one_line_that_says_why(recipe, tmp_path, capfd, local_ray):
    write_corpus(tmp_path / "single", 1, files=1)
    line = refusal(capfd, recipe, f"corpus_dir={tmp_path}/single", "heldout_fraction=0")
    assert f"{tmp_path}/single: 1 document(s) in split 'train'" in line
    assert not (tmp_path / "run/manifest.json").exists()
