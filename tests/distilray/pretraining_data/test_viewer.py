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
def view(shards_dir):
    return ExampleViewer.open(shards_dir, "train")


@pytest.fixture(scope="module")
def dynamic_dir(tmp_path_factory, tokenizer_dir):
    return write_shards(tmp_path_factory.mktemp("view") / "run", tokenizer_dir, mode="paper")


def test_every_token_to_predict_is_shown_with_what_the_model_sees(view):
    tokenizer = view.tokenizer
    for row, text in enumerate(view.rows(0, 40)):
        ((shard, inside),) = view.shards.locate(np.array([row]))
        seen, labels = shard.input_ids.row(inside), shard.mask_labels.row(inside)
        found = PREDICTED.findall(text.plain)
        assert [original for _, _, original in found] == [tokenizer.id_to_token(label) for label in labels]
        places = shard.mask_positions.row(inside)
        for (shown, sign, original), token in zip(found, seen[places], strict=True):
            assert shown.endswith(tokenizer.id_to_token(token))
            assert sign == ("" if token == view.vocabulary.mask else "=" if shown == original else "!")


def test_with_the_labels_put_back_the_lines_are_the_segments(view):
    for row, text in enumerate(view.rows(0, 40)):
        ((shard, inside),) = view.shards.locate(np.array([row]))
        ids = shard.input_ids.row(inside).copy()
        ids[shard.mask_positions.row(inside)] = shard.mask_labels.row(inside)
        second = shard.segment_b_start[inside]
        _, a, b = text.plain.splitlines()
        for line, name, part in ((a, "A ", ids[:second]), (b, "B ", ids[second:])):
            tokens = [view.tokenizer.id_to_token(token) for token in part]
            assert PREDICTED.sub(r"\3", line) == name + " ".join(tokens)


def test_the_heading_tells_where_an_example_comes_from(view):
    headings = [text.plain.splitlines()[0] for text in view.rows(0, len(view.shards))]
    assert sum("B follows A" in heading for heading in headings) > 10
    random_next = [re.search(r"document (\d+), .*B of document (\d+)", heading) for heading in headings]
    documents = [found.groups() for found in random_next if found]
    assert len(documents) > 10
    assert all(own != other for own, other in documents)


def test_masks_are_styled_by_what_the_model_sees(view):
    styles = {str(span.style) for text in view.rows(0, 40) for span in text.spans}
    assert {"bold yellow", "bold red", "bold green"} <= styles


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
def test_pieces_are_joined_to_words_and_predicted_pieces_are_marked(view, seen, labels, shown):
    ids = [view.tokenizer.token_to_id(token) for token in seen.split()]
    originals = {place: view.tokenizer.token_to_id(token) for place, token in labels.items()}
    assert view._segment(ids, originals, range(len(ids))).plain == shown


def test_dynamic_masks_depend_on_the_epoch(dynamic_dir):
    first, again, second = (
        [text.plain for text in ExampleViewer.open(dynamic_dir, "train", epoch=epoch).rows(0, 5)] for epoch in (1, 1, 2)
    )
    assert first == again
    assert first != second
    assert [PREDICTED.sub(r"\3", text) for text in first] == [PREDICTED.sub(r"\3", text) for text in second]


def test_an_example_without_a_segment_b_has_one_line(dynamic_dir):
    text = next(ExampleViewer.open(dynamic_dir, "train").rows(0, 1)).plain
    assert len(text.splitlines()) == 2
    assert "B " not in text


@pytest.mark.parametrize(("token", "shown"), [("a\x1b[31m", "a\\x1b[31m"), ("\u202eb", "\\u202eb"), ("é", "é")])
def test_control_characters_are_escaped(view, token, shown):
    odd = Tokenizer(WordLevel({"[UNK]": 0, token: 5}, unk_token="[UNK]"))
    assert replace(view, tokenizer=odd)._token(5) == shown


def test_rows_end_with_the_split(view):
    assert len(list(view.rows(len(view.shards) - 2, 10))) == 2


@pytest.mark.parametrize("start", [-1, 10**6])
def test_an_unknown_row_is_rejected(view, start):
    with pytest.raises(InputError, match=rf"--start {start}: the split has rows 0 to"):
        view.rows(start, 1)


@pytest.mark.parametrize("count", [0, -2])
def test_fewer_than_one_row_is_refused(view, count):
    with pytest.raises(InputError, match=f"--rows {count}: must be at least 1"):
        view.rows(0, count)


def test_an_epoch_of_static_masks_is_refused(shards_dir, dynamic_dir):
    with pytest.raises(InputError, match="--epoch 1: the masks of split 'train' are the same in every epoch"):
        ExampleViewer.open(shards_dir, "train", epoch=1)
    with pytest.raises(InputError, match="--epoch 1: the masks of split 'heldout'"):
        ExampleViewer.open(dynamic_dir, "heldout", epoch=1)


def test_an_epoch_below_zero_is_refused(dynamic_dir):
    with pytest.raises(InputError, match="--epoch -1: epochs are counted from 0"):
        ExampleViewer.open(dynamic_dir, "train", epoch=-1)


def test_a_tokenizer_other_than_that_of_the_shards_is_rejected(shards_dir, tmp_path):
    copy = Path(shutil.copytree(shards_dir, tmp_path / "copy"))
    file = copy / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_tokens(["lisbon"])
    tokenizer.save(str(file))
    with pytest.raises(InputError, match=f"{file}: .*run jobs.encode_corpus again"):
        ExampleViewer.open(str(copy), "train")
