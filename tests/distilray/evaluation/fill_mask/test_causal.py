import math
import shutil

import pytest
import torch
from transformers import GPT2LMHeadModel

from distilray.errors import InputError
from distilray.evaluation.fill_mask.causal import CAUSAL_METRIC, CausalPerplexity, check_causal_model
from tests.tiny.fill_mask import write_tiny_gpt2
from tests.tiny.words import WORDS

TEXTS = ["paris is the capital of france", "the cat", "sun", "moon " * 40, "one two three four five"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


def loaded(model_dir, **changes):
    values = {"batch_size": 3, "add_start_token": True, "device": torch.device("cpu"), **changes}
    return CausalPerplexity(model_dir, **values)


def plain(model_dir, text, start):
    """Compute the exponential of the mean negative log probability token by token."""
    model = GPT2LMHeadModel.from_pretrained(model_dir).eval()
    vocabulary = {word: number for number, word in enumerate(["<s>", "<unk>", *WORDS])}
    ids = ([0] if start else []) + [vocabulary[word] for word in text.split()]
    ids = ids[:24]
    losses = []
    for place in range(1, len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:place]])).logits[0, -1].double()
        losses.append(float(logits.logsumexp(0) - logits[ids[place]]))
    return math.exp(sum(losses) / len(losses)) if losses else None


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_perplexity_of_each_text_is_that_of_the_plain_formula(model_dir, start, batch_size):
    found = loaded(model_dir, add_start_token=start, batch_size=batch_size).perplexities(TEXTS)
    for text, own in zip(TEXTS, found, strict=True):
        expected = plain(model_dir, text, start)
        assert own is None if expected is None else own == pytest.approx(expected, rel=1e-4)
    assert (found[2] is None) == (not start)  # a single token has none before it


def test_a_text_without_tokens_has_no_perplexity(model_dir):
    assert loaded(model_dir).perplexities(["", " "]) == [None, None]
    assert loaded(model_dir).perplexities([]) == []


def test_an_absent_model_is_refused_with_what_the_metric_is(tmp_path):
    for folder in ("gpt2", str(tmp_path)):
        with pytest.raises(InputError) as caught:
            check_causal_model(folder)
        assert str(caught.value).startswith(f"{folder}: no ")
        assert f"{CAUSAL_METRIC} is the perplexity of the filled texts under a causal model" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pickled_weights_and_broken_files_are_refused(model_dir, tmp_path):
    pickled = shutil.copytree(model_dir, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        loaded(str(pickled))
    torn = shutil.copytree(model_dir, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(InputError, match="cannot be loaded"):
        loaded(str(torn))
