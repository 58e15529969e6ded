import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import show_examples


@pytest.fixture
def show(capfd):
    """Return a function that runs the command and returns its output."""

    def show(*arguments):
        assert show_examples.main(list(arguments)) == 0
        output = capfd.readouterr()
        assert output.err == ""
        return output.out

    return show


def test_rows_are_printed_without_colors_when_not_on_a_terminal(shards_dir, show):
    output = show(shards_dir, "--rows", "3", "--start", "2")
    assert re.findall(r"^row \d+", output, re.M) == ["row 2", "row 3", "row 4"]
    assert "[MASK]{" in output
    assert "\x1b" not in output


def test_masks_are_colored_on_request(shards_dir, show, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;33m[MASK]{" in show(shards_dir)


def test_the_held_out_split_has_other_rows(shards_dir, show):
    train, heldout = show(shards_dir), show(shards_dir, "--split", "heldout")
    assert train != heldout
    for output in (train, heldout):
        assert re.findall(r"^row \d+", output, re.M) == [f"row {number}" for number in range(5)]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("manifest.json", None, "{folder}: no manifest.json"),
        ("manifest.json", (b'"encode_corpus"', b'"distill"'), "written by distill"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("shards/train-*", (b"ARROW1", b"ARROW"), "{folder}/shards/train-"),
    ],
    ids=["no run", "run of another job", "no tokenizer", "truncated shard"],
)
def test_a_missing_or_damaged_file_is_reported_in_one_line(shards_dir, tmp_path, error_line, file, change, message):
    folder = Path(shutil.copytree(shards_dir, tmp_path / "copy"))
    path = min(folder.glob(file))
    if change is None:
        path.unlink()
    else:
        before, after = change
        assert before in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(before, after))
    assert message.format(folder=folder) in error_line(show_examples.main([str(folder)]))


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
def test_a_row_that_does_not_exist_is_reported_in_one_line(shards_dir, error_line, option, value):
    assert option in error_line(show_examples.main([shards_dir, option, value]))


def test_a_closed_pipe_is_not_an_error_message(shards_dir, root):
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
