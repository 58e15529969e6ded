import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import show_examples
from tests.tiny.models import write_tokenizer
from tests.tiny.shards import write_shards


@pytest.fixture(scope="module")
def shards_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return write_shards(folder / "run", write_tokenizer(folder / "tokenizer"))


def shown(capfd, *arguments):
    code = show_examples.main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err.splitlines()


def test_rows_are_printed_plain_when_not_on_a_terminal(shards_dir, capfd):
    code, out, err = shown(capfd, shards_dir, "--rows", "3", "--start", "2")
    assert (code, err) == (0, [])
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("row ")] == ["row 2", "row 3", "row 4"]
    assert "[MASK]{" in out
    assert "\x1b" not in out


def test_masks_are_coloured_when_asked_for(shards_dir, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, out, _ = shown(capfd, shards_dir)
    assert "\x1b[1;33m[MASK]{" in out


def test_the_held_out_split_is_shown_when_asked_for(shards_dir, capfd):
    _, train, _ = shown(capfd, shards_dir)
    _, heldout, _ = shown(capfd, shards_dir, "--split", "heldout")
    assert train != heldout


@pytest.fixture
def copied(shards_dir, tmp_path):
    return Path(shutil.copytree(shards_dir, tmp_path / "copy"))


def test_a_folder_without_a_run_is_reported_in_one_line(tmp_path, capfd):
    code, out, err = shown(capfd, str(tmp_path))
    assert (code, out, len(err)) == (2, "", 1)
    assert f"{tmp_path}: no manifest.json" in err[0]


def test_a_torn_shard_is_reported_in_one_line_that_names_it(copied, capfd):
    file = sorted((copied / "shards").glob("train-*"))[0]
    file.write_bytes(file.read_bytes()[:-9])
    code, _, err = shown(capfd, str(copied))
    assert (code, len(err)) == (2, 1)
    assert file.name in err[0]


def test_a_missing_tokenizer_is_one_line_that_names_it(copied, capfd):
    (copied / "tokenizer.json").unlink()
    code, _, err = shown(capfd, str(copied))
    assert (code, len(err)) == (2, 1)
    assert "tokenizer.json" in err[0]


def test_a_run_of_another_job_is_reported_in_one_line(copied, capfd):
    file = copied / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["content"]["job"] = "distill"
    file.write_text(json.dumps(manifest))
    code, _, err = shown(capfd, str(copied))
    assert (code, len(err)) == (2, 1)
    assert "written by distill" in err[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rows", "x"),
        ("--rows", "0"),
        ("--split", "test"),
        ("--start", "9999999"),
        ("--epoch", "1"),
        ("--epoch", "-1"),
    ],
)
def test_a_row_that_does_not_exist_is_reported_in_one_line_and_nothing_else(shards_dir, capfd, option, value):
    code, out, err = shown(capfd, shards_dir, option, value)
    assert (code, out, len(err)) == (2, "", 1)
    assert option in err[0]


def test_a_reader_that_leaves_is_not_an_error(shards_dir, root):
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.show_examples", shards_dir],
        cwd=root,
        env={**os.environ, "PYTHONPATH": "platform"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 1
