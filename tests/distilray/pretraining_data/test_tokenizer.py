import json

import pytest

from distilray.errors import InputError
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, tokenizer_hash, vocabulary_of


@pytest.fixture
def changed(tokenizer_dir):
    """Return the JSON of the tokenizer after a change."""

    def json_of(change):
        values = json.loads(read_tokenizer(tokenizer_dir))
        change(values)
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    return json_of


def test_truncation_and_padding_settings_are_removed(tokenizer_dir, tmp_path):
    tokenizer = build_tokenizer(read_tokenizer(tokenizer_dir))
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    text = "paris is the capital of france"
    assert len(build_tokenizer(read_tokenizer(str(tmp_path))).encode(text, add_special_tokens=False).ids) == 6


def test_the_hash_depends_on_the_ids_and_not_on_the_file_layout(tokenizer_dir, tmp_path, changed):
    text = read_tokenizer(tokenizer_dir)
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=3))
    assert tokenizer_hash(read_tokenizer(str(tmp_path))) == tokenizer_hash(text)
    assert tokenizer_hash(changed(lambda values: values["normalizer"].update(lowercase=False))) != tokenizer_hash(text)


def test_the_vocabulary_knows_continuations_and_replacements(changed):
    def add_unused(values):
        values["model"]["vocab"]["[unused7]"] = len(values["model"]["vocab"])

    tokenizer_json = changed(add_unused)
    vocabulary, tokenizer = vocabulary_of(tokenizer_json), build_tokenizer(tokenizer_json)
    tokens = [tokenizer.id_to_token(number) for number in range(vocabulary.size)]
    assert vocabulary.is_continuation.tolist() == [token.startswith("##") for token in tokens]
    assert vocabulary.special == (0, 1, 2, 3, 4)
    assert vocabulary.replacement_ids.tolist() == list(range(5, vocabulary.size - 1))  # neither special nor unused


def drop_mask(values):
    del values["model"]["vocab"]["[MASK]"]
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "[MASK]"]


def add_large_id(values):
    values["model"]["vocab"]["large"] = 65_536


@pytest.mark.parametrize(("change", "message"), [(drop_mask, r"no \[MASK\]"), (add_large_id, "65,536")])
def test_a_vocabulary_that_cannot_be_used_is_refused(changed, change, message):
    with pytest.raises(InputError, match=message):
        vocabulary_of(changed(change))


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_folder_without_a_usable_tokenizer_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        read_tokenizer(str(tmp_path))
