import json

import pytest

from distilray.errors import InputError
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, tokenizer_hash, vocabulary_of


def changed(tokenizer_json, change):
    values = json.loads(tokenizer_json)
    change(values)
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def test_truncation_and_padding_of_the_folder_do_not_reach_the_encoder(tokenizer_dir, tmp_path):
    tokenizer = build_tokenizer(read_tokenizer(tokenizer_dir))
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    text = "paris is the capital of france"
    encoded = build_tokenizer(read_tokenizer(str(tmp_path))).encode(text, add_special_tokens=False)
    assert len(encoded.ids) == 6


def test_the_hash_names_the_ids_and_not_the_layout_of_the_file(tokenizer_dir, tmp_path):
    text = read_tokenizer(tokenizer_dir)
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=3))
    assert tokenizer_hash(read_tokenizer(str(tmp_path))) == tokenizer_hash(text)
    other = changed(text, lambda values: values["normalizer"].update(lowercase=False))
    assert tokenizer_hash(other) != tokenizer_hash(text)


def test_special_and_unused_tokens_are_not_drawable(tokenizer_dir):
    def add_unused(values):
        values["model"]["vocab"]["[unused7]"] = len(values["model"]["vocab"])

    vocabulary = vocabulary_of(changed(read_tokenizer(tokenizer_dir), add_unused))
    assert not set(vocabulary.special) & set(vocabulary.replacement_ids.tolist())
    assert len(vocabulary.replacement_ids) == vocabulary.size - 5 - 1


def test_a_tokenizer_without_mask_token_is_refused(tokenizer_dir):
    def drop_mask(values):
        del values["model"]["vocab"]["[MASK]"]
        values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "[MASK]"]

    with pytest.raises(InputError, match=r"no \[MASK\]"):
        vocabulary_of(changed(read_tokenizer(tokenizer_dir), drop_mask))


def test_more_ids_than_16_bits_are_refused(tokenizer_dir):
    def grow(values):
        values["model"]["vocab"]["far"] = 65_536

    with pytest.raises(InputError, match="65,536"):
        vocabulary_of(changed(read_tokenizer(tokenizer_dir), grow))


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_folder_without_a_usable_tokenizer_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        read_tokenizer(str(tmp_path))
