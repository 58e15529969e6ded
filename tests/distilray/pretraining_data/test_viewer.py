import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from distilray.errors import InputError
from distilray.pretraining_data.viewer import ExampleViewer
from tests.tiny.shards import write_shards

PREDICTED = re.compile(r"(\S+?)([!=]?)\{(\S+?)\}")


@pytest.fixture(scope="module")
def viewer(shards_dir):
    return ExampleViewer.open(shards_dir, "train")


@pytest.fixture(scope="module")
def dynamic_dir(tmp_path_factory, tokenizer_dir):
    return write_shards(tmp_path_factory.mktemp("view") / "run", tokenizer_dir, mode="paper")


def test_an_example_has_a_heading_its_segments_and_what_the_model_sees(viewer):
    token_of = viewer.tokenizer.id_to_token
    for row, text in enumerate(viewer.rows(0, 40)):
        ((shard, local_row),) = viewer.shards.locate(np.array([row]))
        seen, labels = shard.input_ids.row(local_row), shard.mask_labels.row(local_row)
        positions, b_start = shard.mask_positions.row(local_row), shard.segment_b_start[local_row]
        heading, *segments = text.plain.splitlines()
        document, other = shard.example_id[local_row] >> 32, shard.document_b[local_row]
        assert heading.startswith(f"row {row}: document {document}, copy 0, example ")
        assert ("B follows A" if document == other else f"B of document {other}") in heading
        trimmed = f"{shard.trimmed[local_row]} trimmed"
        assert heading.endswith(f"; {len(seen)} tokens, {len(labels)} to predict, {trimmed}")
        predicted = PREDICTED.findall(text.plain)
        assert [original for _, _, original in predicted] == [token_of(label) for label in labels]
        for (shown, marker, original), token in zip(predicted, seen[positions], strict=True):
            assert shown.endswith(token_of(token))
            assert marker == ("" if token == viewer.vocabulary.mask else "=" if shown == original else "!")
        ids = seen.copy()
        ids[positions] = labels
        tokens = [" ".join(map(token_of, part)) for part in (ids[:b_start], ids[b_start:])]
        assert [PREDICTED.sub(r"\3", segment) for segment in segments] == [f"A {tokens[0]}", f"B {tokens[1]}"]


def test_masks_are_styled_by_what_the_model_sees(viewer):
    styles = {
        text.plain[span.start : span.end].split("{")[0][-1]: str(span.style)
        for text in viewer.rows(0, 40)
        for span in text.spans
        if "{" in text.plain[span.start : span.end]
    }
    assert (styles["!"], styles["="], styles["]"]) == ("bold red", "bold green", "bold yellow")


@pytest.mark.parametrize(
    ("seen", "labels", "shown"),
    [
        ("[CLS] dog ##s ##ing cat", {}, "[CLS] dogsing cat"),
        ("[CLS] dog [MASK] ##ing cat", {2: "##s"}, "[CLS] dog[MASK]{##s}ing cat"),
        ("[CLS] [MASK] ##s cat", {1: "dog"}, "[CLS] [MASK]{dog}s cat"),
        ("[CLS] dog ##s cat", {3: "cat"}, "[CLS] dogs cat={cat}"),
        ("[CLS] dog cat cat", {2: "##s"}, "[CLS] dogcat!{##s} cat"),
        ("[CLS] ##s dog", {}, "[CLS] ##s dog"),
        ("##s ##ing dog", {}, "##sing dog"),
    ],
)
def test_pieces_are_joined_to_words_and_predicted_pieces_are_marked(viewer, seen, labels, shown):
    ids = [viewer.tokenizer.token_to_id(token) for token in seen.split()]
    originals = {position: viewer.tokenizer.token_to_id(token) for position, token in labels.items()}
    assert viewer._segment(ids, originals, range(len(ids))).plain == shown


def test_dynamic_masks_depend_on_the_epoch(dynamic_dir):
    first, again, second = (
        [text.plain for text in ExampleViewer.open(dynamic_dir, "train", epoch=epoch).rows(0, 5)] for epoch in (1, 1, 2)
    )
    assert first == again
    assert first != second
    assert [PREDICTED.sub(r"\3", text) for text in first] == [PREDICTED.sub(r"\3", text) for text in second]
    assert [len(text.splitlines()) for text in first] == [2] * 5  # a heading and a single segment


@pytest.mark.parametrize(("token", "shown"), [("a\x1b[31m", "a\\x1b[31m"), ("\u202eb", "\\u202eb"), ("é", "é")])
def test_control_characters_are_escaped(viewer, token, shown):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, token: 5}, unk_token="[UNK]"))
    assert replace(viewer, tokenizer=tokenizer)._token(5) == shown


def test_rows_end_with_the_split(viewer):
    assert len(list(viewer.rows(len(viewer.shards) - 2, 10))) == 2


@pytest.mark.parametrize(
    ("start", "count", "message"),
    [
        (-1, 1, "--start -1: the split has rows 0 to"),
        (10**6, 1, "--start 1000000: the split has rows 0 to"),
        (0, 0, "--rows 0: must be at least 1"),
        (0, -2, "--rows -2: must be at least 1"),
    ],
)
def test_rows_that_do_not_exist_are_refused(viewer, start, count, message):
    with pytest.raises(InputError, match=message):
        viewer.rows(start, count)


def test_an_epoch_that_does_not_exist_is_refused(shards_dir, dynamic_dir):
    for folder, split, epoch, message in (
        (shards_dir, "train", 1, "--epoch 1: the masks of split 'train' are the same in every epoch"),
        (dynamic_dir, "heldout", 1, "--epoch 1: the masks of split 'heldout'"),
        (dynamic_dir, "train", -1, "--epoch -1: epochs are counted from 0"),
    ):
        with pytest.raises(InputError, match=message):
            ExampleViewer.open(folder, split, epoch=epoch)


def test_a_tokenizer_other_than_that_of_the_shards_is_refused(shards_dir, tmp_path):
    file = Path(shutil.copytree(shards_dir, tmp_path / "copy")) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_tokens(["lisbon"])
    tokenizer.save(str(file))
    with pytest.raises(InputError, match=f"{file}: .*run jobs.encode_corpus again"):
        ExampleViewer.open(str(tmp_path / "copy"), "train")
