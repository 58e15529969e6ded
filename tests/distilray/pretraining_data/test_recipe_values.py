"""Effect of recipe values of `train_tokenizer` and `encode_corpus` on their outputs."""

import json
from collections import Counter

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.pretraining_data.tokenizer_training import train_tokenizer
from distilray.runtime.run_folder import RunFolder
from tests.tiny.corpus import write_corpus
from tests.tiny.shards import encode_config, encode_in_process

DOCUMENTS = [["aba aba aba cdc cdc"], ["efe efe aba", "Xy"], ["cdc aba"]]


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """Train a tokenizer with some settings, and return its folder."""
    corpus_dir = write_corpus(tmp_path_factory.mktemp("words") / "corpus", sentences=DOCUMENTS, files=1)

    def train(**values):
        folder = tmp_path_factory.mktemp("tokenizer") / "run"
        recipe = {"run_dir": str(folder), "corpus_dir": corpus_dir, "vocabulary_size": 300, **values}
        config = TrainTokenizerConfig.model_validate(recipe)
        run = RunFolder("train_tokenizer", config, {})
        run.begin()
        train_tokenizer(config, run)
        return folder

    return train


def learned(folder):
    """Return the learned tokens of more than one character."""
    return {token for token in (folder / "vocab.txt").read_text().split() if token in {"aba", "cdc", "efe"}}


@pytest.mark.parametrize(("times", "words"), [(2, {"aba", "cdc", "efe"}), (3, {"aba", "cdc"}), (4, {"aba"})])
def test_a_word_becomes_a_token_if_it_occurs_as_often_as_the_recipe_says(tokenizer_of, times, words):
    assert learned(tokenizer_of(min_frequency=times)) == words


@pytest.mark.parametrize("length", [64, 512])
def test_the_tokenizer_has_the_maximum_length_of_the_recipe(tokenizer_of, length):
    settings = json.loads((tokenizer_of(max_seq_length=length) / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == length


def test_only_so_many_characters_become_tokens(tokenizer_of):
    few, all_of = (
        {token for token in (tokenizer_of(max_characters=count) / "vocab.txt").read_text().split() if len(token) == 1}
        for count in (3, 1000)
    )
    assert few == {"a", "b", "c"}
    assert all_of > few


@pytest.mark.parametrize("lower_case", [True, False])
def test_text_is_lower_cased_if_the_recipe_says_so(tokenizer_of, lower_case):
    tokenizer = Tokenizer.from_file(str(tokenizer_of(lower_case=lower_case) / "tokenizer.json"))
    assert tokenizer.normalizer.normalize_str("XY") == ("xy" if lower_case else "XY")


def examples(folder, tokenizer_dir, **changes):
    """The train examples of a corpus."""
    corpus_dir = write_corpus(folder / "corpus", 60)
    values = {"corpus_dir": corpus_dir, "tokenizer_dir": tokenizer_dir, "heldout_fraction": 0.2, **changes}
    config = encode_config(str(folder / "run"), **values)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    outputs = encode_in_process(config, run).outputs
    train = [name for name, entry in outputs.items() if entry.get("split") == "train"]
    return [pa.ipc.open_file(str(folder / "run" / name)).read_all().to_pylist() for name in train]


def rows(found):
    return [row for shard in found for row in shard]


def test_a_shard_has_the_rows_of_the_recipe(tmp_path, tokenizer_dir):
    found = examples(tmp_path, tokenizer_dir, rows_per_shard=40)
    assert len(found) == -(-len(rows(found)) // 40) > 1


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["card", "paper"])
def test_short_examples_are_as_frequent_as_the_recipe_says(tmp_path, tokenizer_dir, mode, probability):
    lengths = [
        len(row["input_ids"])
        for row in rows(examples(tmp_path, tokenizer_dir, mode=mode, short_seq_prob=probability, dupe_factor=3))
    ]
    full = sum(length >= 30 for length in lengths) / len(lengths)
    assert full > 0.5 if probability == 0 else full < 0.3


@pytest.mark.parametrize("copies", [1, 3])
def test_each_copy_of_a_document_is_cut_in_its_own_way(tmp_path, tokenizer_dir, copies):
    found = rows(examples(tmp_path, tokenizer_dir, dupe_factor=copies, short_seq_prob=0.5, random_next_probability=0.0))
    cuts = {}
    for row in found:
        copy = row["example_id"] >> 24 & 0xFF
        cuts.setdefault(row["document_a"], {}).setdefault(copy, []).append(len(row["input_ids"]))
    assert {len(of_document) for of_document in cuts.values()} == {copies}
    differing = sum(len({tuple(sorted(sizes)) for sizes in each.values()}) > 1 for each in cuts.values())
    assert differing == 0 if copies == 1 else differing > len(cuts) / 4


def test_the_shares_of_what_is_seen_in_place_of_a_token_are_those_of_the_recipe(tmp_path, tokenizer_dir):
    masking = {"mask_share": 0.5, "random_share": 0.4, "keep_share": 0.1, "mlm_probability": 0.3}
    found = rows(examples(tmp_path, tokenizer_dir, masking=masking, dupe_factor=3))
    tokens = (tmp_path / "run/tokenizer.json").read_text()
    mask = Tokenizer.from_str(tokens).token_to_id("[MASK]")
    kinds = Counter()
    for row in found:
        for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
            seen = row["input_ids"][position]
            kinds["mask" if seen == mask else "keep" if seen == label else "random"] += 1
    total = kinds.total()
    assert kinds["mask"] / total == pytest.approx(0.5, abs=0.05)
    assert kinds["random"] / total == pytest.approx(0.4, abs=0.05)
    ordinary = sum(len(row["input_ids"]) - 3 for row in found)
    assert total / ordinary == pytest.approx(0.3, abs=0.03)
