import dataclasses
import json
import random
from unittest.mock import Mock, call

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilray.errors import InputError
from distilray.inference.encoding import InputTextError
from distilray.inference.tasks.fill_mask import FillMask, FillMaskQuery
from distilray.models.precision import serving_dtype
from tests.tiny.models import MAX_LENGTH, write_tiny_model
from tests.tiny.onnx import write_small_onnx
from tests.tiny.words import WORDS


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model_dir(request, tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def fill_mask(model_dir):
    return FillMask.load(model_dir, precision="fp32")


@pytest.fixture(scope="module")
def peer(model_dir):
    """The pipeline of transformers; returns the candidates of each mask."""
    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    fill = pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(model_dir))

    def answer(text, **parameters):
        candidates = fill(text, **parameters)
        return [candidates] if text.count("[MASK]") == 1 else candidates

    return answer


def random_texts(count, masks, seed=3):
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        words = rng.choices([*WORDS, "Zürich!", "it's", "walking,", "日本", "🙂"], k=rng.randint(1, 12))
        for _ in range(masks):
            words.insert(rng.randint(0, len(words)), "[MASK]")
        texts.append(" ".join(words))
    return texts


def assert_equal(answers, others):
    for answer, other in zip(answers, others, strict=True):
        for candidates, expected in zip(answer, other, strict=True):
            expected = [one if isinstance(one, dict) else one._asdict() for one in expected]
            assert [one.score for one in candidates] == pytest.approx([one["score"] for one in expected], abs=1e-5)
            assert [one[1:] for one in candidates] == [
                (one["token"], one["token_str"], one["sequence"]) for one in expected
            ]


@pytest.mark.parametrize(
    ("texts", "parameters"),
    [
        (random_texts(60, masks=1), {}),
        *[(random_texts(20, masks), {"top_k": 3}) for masks in (2, 3, 7)],
        # More masks than pass through the head at once.
        ([" ".join(["[MASK]"] * 40), *random_texts(3, masks=30), " ".join(["cat [MASK]"] * 20)], {"top_k": 2}),
        *[(random_texts(5, masks=1, seed=top_k), {"top_k": top_k}) for top_k in (1, 2, 17, 100)],
        *[
            (random_texts(10, masks=1, seed=len(targets)), {"targets": targets})
            for targets in (["paris"], ["rome", "paris", "cat"], ["cat", "cat"], ["Paris", "dog"], ["[UNK]", "##ing"])
        ],
        (["paris [PAD] is [MASK] [SEP] rome"], {}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else f"{value[0].count('[MASK]')}",
)
def test_the_answers_are_those_of_the_pipeline(fill_mask, peer, texts, parameters):
    assert_equal(fill_mask.fill(texts, **parameters), [peer(text, **parameters) for text in texts])


def test_other_texts_in_a_batch_do_not_change_an_answer(fill_mask):
    texts = random_texts(40, masks=1) + random_texts(40, masks=3)
    assert_equal([fill_mask.fill([text])[0] for text in texts], fill_mask.fill(texts))
    assert fill_mask.fill([]) == []


def test_a_tokenizer_that_cannot_decode_single_tokens_decodes_complete_texts(fill_mask, monkeypatch):
    texts = random_texts(20, masks=1) + random_texts(5, masks=3)
    expected = fill_mask.fill(texts)
    monkeypatch.setattr(fill_mask._decoder, "_by_token", False)
    assert_equal(fill_mask.fill(texts), expected)


def test_each_query_of_a_batch_has_its_own_parameters(fill_mask):
    text = "paris is [MASK] of france"
    targets = (None, None, ("cat", "dog"), ("cat", "sun", "moon"))
    queries = [FillMaskQuery(text, top_k, words) for top_k, words in zip((1, 9, 5, 2), targets, strict=True)]
    full = fill_mask.fill_encoded(fill_mask.encode(queries))
    assert [len(answer[0]) for answer in full] == [1, 9, 2, 2]
    assert full[0][0][0] == pytest.approx(full[1][0][0])
    short = fill_mask.encode([dataclasses.replace(query, sequences=False) for query in queries])
    for answer, expected in zip(fill_mask.fill_encoded(short), full, strict=True):
        assert [one[1:] for one in answer[0]] == [(one.token, one.token_str, "") for one in expected[0]]


@pytest.mark.parametrize(
    ("text", "targets", "kind", "message"),
    [
        ("paris", None, "no_mask", r"text 1: no mask token; write \[MASK\]"),
        ("", None, "no_mask", "text 1"),
        ("[MASK]" + " cat" * (MAX_LENGTH - 2), None, "too_long", f"text 1: {MAX_LENGTH + 1} tokens.*{MAX_LENGTH};"),
        ("[MASK] \ud800", None, "encoding", "text 1: contains half of a surrogate pair"),
        ("[MASK]", [], "targets", r"targets\[0\]: missing"),
        ("[MASK]", [" "], "targets", r"targets\[0\]: not a single token"),
        ("[MASK]", ["\udfff"], "encoding", r"targets\[0\]: contains half"),
        ("[MASK]", ["cat", "catfood"], "targets", r"targets\[1\]: not a single token of the vocabulary; .* it$"),
        ("[MASK]", ["日", "cat", "xyz", "cat", "fgh"], "targets", r"targets\[0\].*\(the same for 2, 4\)$"),
        ("[MASK]", ["日"] * 11, "targets", r"\(the same for 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)$"),
    ],
)
def test_an_unusable_text_or_target_is_a_typed_error_with_its_index(fill_mask, text, targets, kind, message):
    with pytest.raises(InputTextError, match=message) as raised:
        fill_mask.fill(["a [MASK]", text], targets=targets)
    assert raised.value.kind == kind


def test_a_text_of_the_maximum_length_is_filled(fill_mask):
    assert len(fill_mask.fill(["[MASK]" + " cat" * (MAX_LENGTH - 3)])[0]) == 1


def test_targets_are_tokenized_once_for_all_texts(fill_mask, monkeypatch):
    encode = Mock(wraps=fill_mask._encoder.token_ids)
    monkeypatch.setattr(fill_mask._encoder, "token_ids", encode)
    targets = ("moon", "sun", "four")
    fill_mask.fill(["a [MASK]"] * 5, targets=targets)
    assert encode.call_args_list.count(call(targets, target=True)) == 1


@pytest.mark.parametrize(
    ("masks", "words", "top_k", "sequences"), [(1, 9, 5, True), (7, 9, 50, True), (3, 1, 100, True), (7, 9, 1, False)]
)
def test_the_size_of_a_response_is_estimated_before_the_forward_pass(fill_mask, masks, words, top_k, sequences):
    text = "[MASK] " * masks + "paris is new , " * words
    (query,) = fill_mask.encode([FillMaskQuery(text, top_k, sequences=sequences)])
    (answer,) = fill_mask.fill_encoded([query])
    size = len(json.dumps([[candidate._asdict() for candidate in mask] for mask in answer]))
    assert size / 2 < fill_mask.response_bytes(query) < size * 2


def test_answers_in_bfloat16_are_similar_but_may_depend_on_the_batch(model_dir, fill_mask):
    texts = random_texts(5, masks=1)
    narrow = FillMask.load(model_dir, precision="bf16")
    assert (narrow.dtype, narrow.batch_invariant) == ("bfloat16", False)
    for answer, exact in zip(narrow.fill(texts, targets=["cat"]), fill_mask.fill(texts, targets=["cat"]), strict=True):
        assert answer[0][0].score == pytest.approx(exact[0][0].score, abs=0.1)
    assert serving_dtype("auto") == torch.float32
    assert FillMask.load(model_dir).batch_invariant
    info = {"dtype": "float32", "batch_invariant": True, "mask_token": "[MASK]", "max_length": MAX_LENGTH}
    assert info.items() <= fill_mask.info().items()


def test_equal_folders_have_the_same_revision_and_others_a_different_one(tmp_path):
    kinds = {"a": "distilbert", "b": "distilbert", "c": "bert"}
    first, second, other = (FillMask.load(write_tiny_model(tmp_path / name, kinds[name])).revision for name in kinds)
    assert first == second != other


def truncate(file):
    file.write_bytes(file.read_bytes()[:50])


def rename(file):
    file.rename(file.with_name("pytorch_model.bin"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), truncate, rename], ids=["missing", "torn", "renamed"])
def test_an_incomplete_or_torn_folder_is_rejected(tmp_path, name, damage):
    model_dir = write_tiny_model(tmp_path / "model", "distilbert")
    damage(tmp_path / "model" / name)
    with pytest.raises(InputError, match=model_dir if damage is truncate else f"{model_dir}: no {name}"):
        FillMask.load(model_dir)


def test_an_onnx_folder_is_served_with_the_same_interface_in_its_own_dtype(tmp_path):
    folder = write_small_onnx(tmp_path / "onnx", write_tiny_model(tmp_path / "model", "bert"))
    fill_mask = FillMask.load(folder, threads=1)
    assert (fill_mask.dtype, fill_mask.architecture) == ("float32", "BertForMaskedLM")
    # In the small graph, the logit at a mask is largest for the mask token itself.
    texts = ["[MASK] is a [MASK]", "paris is [MASK] of france"]
    answers = fill_mask.fill(texts, top_k=2)
    assert [[mask[0].token_str for mask in answer] for answer in answers] == [["[MASK]"] * 2, ["[MASK]"]]
    with pytest.raises(InputError, match=r"precision 'bf16': .*ONNX"):
        FillMask.load(folder, precision="bf16")
    with pytest.raises(InputError, match="precision 'fp16': choose one of auto, bf16, fp32"):
        FillMask.load(f"{tmp_path}/model", precision="fp16")
