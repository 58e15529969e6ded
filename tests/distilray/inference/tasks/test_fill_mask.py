import dataclasses
import json
import random

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
    return FillMask.load(model_dir, dtype="float32")


@pytest.fixture(scope="module")
def peer(model_dir):
    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    return pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(model_dir))


def random_texts(count: int, masks: int, seed: int = 3) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        words = rng.choices([*WORDS, "Zürich!", "it's", "walking,", "日本", "🙂"], k=rng.randint(1, 12))
        for _ in range(masks):
            words.insert(rng.randint(0, len(words)), "[MASK]")
        texts.append(" ".join(words))
    return texts


def assert_equal(ours, theirs):
    assert [(one.token, one.token_str, one.sequence) for one in ours] == [
        (one["token"], one["token_str"], one["sequence"]) for one in theirs
    ]
    assert [one.score for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


def test_one_mask_is_filled_as_by_the_pipeline(fill_mask, peer):
    texts = random_texts(100, masks=1)
    for answer, text in zip(fill_mask.fill(texts), texts, strict=True):
        assert len(answer) == 1
        assert_equal(answer[0], peer(text))


@pytest.mark.parametrize("masks", [2, 3, 7])
def test_several_masks_are_filled_as_by_the_pipeline(fill_mask, peer, masks):
    texts = random_texts(30, masks=masks)
    for answer, text in zip(fill_mask.fill(texts, top_k=3), texts, strict=True):
        for ours, theirs in zip(answer, peer(text, top_k=3), strict=True):
            assert_equal(ours, theirs)


@pytest.mark.parametrize("top_k", [1, 2, 17, 100])
def test_top_k_gives_the_pipelines_candidates(fill_mask, peer, top_k):
    for text in random_texts(5, masks=1, seed=top_k):
        assert_equal(fill_mask.fill([text], top_k=top_k)[0][0], peer(text, top_k=top_k))


@pytest.mark.parametrize(
    "targets", [["paris"], ["rome", "paris", "cat"], ["cat", "cat"], ["Paris", "dog"], ["[UNK]", "##ing"]]
)
def test_targets_limit_the_candidates_as_in_the_pipeline(fill_mask, peer, targets):
    for text in random_texts(10, masks=1, seed=len(targets)):
        assert_equal(fill_mask.fill([text], targets=targets)[0][0], peer(text, targets=targets))


def test_a_literal_padding_token_in_the_text_is_treated_as_by_the_pipeline(fill_mask, peer):
    text = "paris [PAD] is [MASK] [SEP] rome"
    assert_equal(fill_mask.fill([text])[0][0], peer(text))


def test_other_texts_in_a_batch_do_not_change_an_answer(fill_mask):
    texts = random_texts(40, masks=1) + random_texts(40, masks=3)
    for alone, together in zip([fill_mask.fill([text])[0] for text in texts], fill_mask.fill(texts), strict=True):
        for ours, theirs in zip(alone, together, strict=True):
            assert_equal(ours, [one._asdict() for one in theirs])


def test_each_query_of_a_batch_has_its_own_parameters(fill_mask):
    text = "paris is [MASK] of france"
    queries = [
        FillMaskQuery(text, 1),
        FillMaskQuery(text, 9),
        FillMaskQuery(text, 5, ("cat", "dog")),
        FillMaskQuery(text, 5, ("cat", "sun", "moon")),
    ]
    answers = fill_mask.fill_encoded(fill_mask.encode(queries))
    assert [len(answer[0]) for answer in answers] == [1, 9, 2, 3]
    assert answers[0][0][0] == pytest.approx(answers[1][0][0])


def test_more_masks_than_go_through_the_head_at_once_keep_their_order(fill_mask, peer):
    texts = [" ".join(["[MASK]"] * 40), *random_texts(3, masks=30), " ".join(["cat [MASK]"] * 20)]
    for answer, text in zip(fill_mask.fill(texts, top_k=2), texts, strict=True):
        for ours, theirs in zip(answer, peer(text, top_k=2), strict=True):
            assert_equal(ours, theirs)


def test_without_sequences_only_the_filled_text_is_left_out(fill_mask):
    query = FillMaskQuery("paris is [MASK]")
    full, short = fill_mask.fill_encoded(fill_mask.encode([query, dataclasses.replace(query, sequences=False)]))
    assert [(one.token, one.token_str, "") for one in full[0]] == [one[1:] for one in short[0]]


def test_no_text_gives_no_answer(fill_mask):
    assert fill_mask.fill([]) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("paris", "no_mask"),
        ("", "no_mask"),
        ("[MASK] " + "cat " * MAX_LENGTH, "too_long"),
        ("[MASK] \ud800", "encoding"),
    ],
)
def test_a_text_that_cannot_be_filled_is_a_typed_error_with_its_index(fill_mask, text, kind):
    with pytest.raises(InputTextError) as caught:
        fill_mask.fill(["a [MASK]", text])
    assert (caught.value.kind, caught.value.index) == (kind, 1)


def test_a_text_of_the_full_length_is_filled(fill_mask):
    assert len(fill_mask.fill(["[MASK]" + " cat" * (MAX_LENGTH - 3)])[0]) == 1


@pytest.mark.parametrize("targets", [[], [" "], ["\udfff"]])
def test_targets_without_a_word_are_a_typed_error(fill_mask, targets):
    with pytest.raises(InputTextError) as caught:
        fill_mask.fill(["a [MASK]"], targets=targets)
    assert caught.value.kind in {"targets", "encoding"}


def test_a_missing_mask_names_the_mask_token(fill_mask):
    with pytest.raises(InputTextError, match=r"\[MASK\]"):
        fill_mask.fill(["paris"])


def test_equal_folders_have_one_revision_and_others_another(tmp_path):
    first, second = (write_tiny_model(tmp_path / name, "distilbert") for name in ("a", "b"))
    assert FillMask.load(first).revision == FillMask.load(second).revision
    assert FillMask.load(first).revision != FillMask.load(write_tiny_model(tmp_path / "c", "bert")).revision


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_without_one_of_its_files_is_an_input_error_that_names_both(tmp_path, missing):
    model_dir = write_tiny_model(tmp_path / "model", "distilbert")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(InputError, match=missing) as caught:
        FillMask.load(model_dir)
    assert model_dir in str(caught.value)


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path):
    model_dir = write_tiny_model(tmp_path / "model", "bert")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        FillMask.load(model_dir)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_torn_file_is_an_input_error(tmp_path, name):
    model_dir = write_tiny_model(tmp_path / "model", "bert")
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError):
        FillMask.load(model_dir)


def test_bfloat16_answers_are_close_to_those_of_float32(model_dir, fill_mask):
    texts = random_texts(5, masks=1)
    half = FillMask.load(model_dir, dtype="bfloat16")
    assert half.dtype == "bfloat16"
    for ours, exact in zip(half.fill(texts, targets=["cat"]), fill_mask.fill(texts, targets=["cat"]), strict=True):
        assert ours[0][0].score == pytest.approx(exact[0][0].score, abs=0.1)


def test_auto_is_float32_whose_answers_do_not_depend_on_a_batch(model_dir):
    assert serving_dtype("auto") == torch.float32
    assert FillMask.load(model_dir).batch_invariant
    assert not FillMask.load(model_dir, dtype="bfloat16").batch_invariant


def test_the_size_of_a_response_is_estimated_before_the_forward(fill_mask):
    queries = [
        FillMaskQuery("[MASK] " * masks + "paris is new , " * words, top_k, sequences=sequences)
        for masks, words, top_k, sequences in [(1, 9, 5, True), (7, 9, 50, True), (3, 1, 100, True), (7, 9, 1, False)]
    ]
    for query in fill_mask.encode(queries):
        (answer,) = fill_mask.fill_encoded([query])
        size = len(json.dumps([[candidate._asdict() for candidate in mask] for mask in answer]))
        assert size / 2 < fill_mask.response_bytes(query) < size * 2


def test_a_target_outside_the_vocabulary_is_an_error_and_not_its_first_piece(fill_mask):
    with pytest.raises(InputTextError, match=r"targets\[1\]") as caught:
        fill_mask.fill(["a [MASK]"], targets=["cat", "catfood"])
    assert caught.value.kind == "targets"


def test_targets_are_tokenized_once_for_all_texts(fill_mask, monkeypatch):
    encoder, batches = fill_mask._encoder, []
    backend = encoder._backend

    class Counted:
        def __getattr__(self, name):
            return getattr(backend, name)

        def encode_batch_fast(self, texts, **options):
            batches.append(list(texts))
            return backend.encode_batch_fast(texts, **options)

    monkeypatch.setattr(encoder, "_backend", Counted())
    targets = ["moon", "sun", "four"]
    fill_mask.fill(["a [MASK]"] * 5, targets=targets)
    assert batches.count(targets) == 1


def test_another_dtype_name_is_an_input_error():
    with pytest.raises(InputError, match="float16"):
        serving_dtype("float16")


def test_an_onnx_folder_is_served_with_the_same_interface(tmp_path):
    model_dir = write_tiny_model(tmp_path / "model", "bert")
    fill_mask = FillMask.load(write_small_onnx(tmp_path / "onnx", model_dir), threads=1)
    assert (fill_mask.dtype, fill_mask.architecture) == ("float32", "BertForMaskedLM")
    # In the small graph, the logit at a mask is largest for the mask token itself.
    texts = ["[MASK] is a [MASK]", "paris is [MASK] of france"]
    for answer, masks in zip(fill_mask.fill(texts, top_k=2), (2, 1), strict=True):
        assert [candidates[0].token_str for candidates in answer] == ["[MASK]"] * masks


def test_the_dtype_of_an_onnx_folder_cannot_be_chosen(tmp_path):
    folder = write_small_onnx(tmp_path / "onnx", write_tiny_model(tmp_path / "model", "bert"))
    with pytest.raises(InputError, match="ONNX"):
        FillMask.load(folder, dtype="bfloat16")
