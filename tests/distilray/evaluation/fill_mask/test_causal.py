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


def perplexities(model_dir, texts, *, batch_size=3, start=True):
    model = CausalPerplexity(model_dir, batch_size=batch_size, add_start_token=start, device=torch.device("cpu"))
    return model.perplexities(texts)


def expected_perplexity(model_dir, text, start):
    """Compute the exponential of the mean negative log probability token by token."""
    model = GPT2LMHeadModel.from_pretrained(model_dir).eval()
    ids = ([0] if start else []) + [2 + WORDS.index(word) for word in text.split()]
    losses = []
    for position in range(1, min(len(ids), 24)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:position]])).logits[0, -1].double()
        losses.append(float(logits.logsumexp(0) - logits[ids[position]]))
    return math.exp(sum(losses) / len(losses)) if losses else None


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_perplexity_of_each_text_follows_its_formula(model_dir, start, batch_size):
    values = perplexities(model_dir, TEXTS, start=start, batch_size=batch_size)
    expected = [expected_perplexity(model_dir, text, start) for text in TEXTS]
    assert values == [None if each is None else pytest.approx(each, rel=1e-4) for each in expected]
    assert (values[2] is None) == (not start)  # a single token has none before it


def test_a_text_without_tokens_has_no_perplexity(model_dir):
    assert perplexities(model_dir, ["", " "]) == [None, None]
    assert perplexities(model_dir, []) == []


@pytest.mark.parametrize("folder", ["gpt2", "."])
def test_a_missing_model_is_refused_with_the_meaning_of_the_metric(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    meaning = f"{CAUSAL_METRIC} is the perplexity of the filled texts under a causal model"
    with pytest.raises(InputError, match=rf"^{folder}: no [^\n]*{meaning}[^\n]*$"):
        check_causal_model(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.safetensors", lambda file: file.rename(file.with_name("pytorch_model.bin")), "safetensors"),
        ("model.safetensors", lambda file: file.write_bytes(b"x" * 50), "cannot be loaded"),
        ("config.json", lambda file: file.unlink(), r"no config\.json"),
    ],
    ids=["pickled weights", "torn weights", "no config"],
)
def test_an_unusable_model_is_refused(model_dir, tmp_path, file, change, message):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    change(folder / file)
    with pytest.raises(InputError, match=message):
        perplexities(str(folder), TEXTS)
