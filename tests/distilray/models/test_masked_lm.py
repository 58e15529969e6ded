import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertModel, RobertaConfig, RobertaForMaskedLM, pipeline

from distilray.errors import InputError
from distilray.models.heads import initialize_head_bias, is_head_parameter, vocabulary_logits
from distilray.models.masked_lm import count_layer_parameters, encode, load_masked_lm, save_model
from distilray.models.precision import autocast, precision_of
from distilray.models.student import create_student
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer
from tests.tiny.words import WORDS

HEAD_WEIGHT = "cls.predictions.transform.dense.weight"


@pytest.fixture(scope="module")
def student_dir(teacher_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    save_model(create_student(load_masked_lm(teacher_dir))[0], folder, read_tokenizer(teacher_dir))
    return str(folder)


@pytest.fixture(params=["bert", "distilbert"])
def model_dir(request, teacher_dir, student_dir):
    return teacher_dir if request.param == "bert" else student_dir


@pytest.fixture
def copied(teacher_dir, tmp_path):
    return Path(shutil.copytree(teacher_dir, tmp_path / "model"))


@pytest.fixture
def bare_dir(teacher_dir, tmp_path):
    """The teacher's encoder without its masked-LM head."""
    load_masked_lm(teacher_dir).bert.save_pretrained(tmp_path / "bare")
    return str(tmp_path / "bare")


def random_batch(size=4, length=17):
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 60, (size, length), generator=generator)
    lengths = torch.randint(5, length + 1, (size,), generator=generator)
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    token_type_ids = (torch.arange(length) >= lengths[:, None] // 2).long() * attention_mask
    return input_ids, attention_mask, token_type_ids


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=precision_of)
def test_hidden_states_do_not_depend_on_who_looks_for_padding(model_dir, attention, dtype):
    model = load_masked_lm(model_dir).to(dtype)
    model.set_attn_implementation(attention)
    ids, mask, types = random_batch()
    full = torch.ones_like(mask)
    with autocast(torch.device("cpu"), dtype), torch.no_grad():
        assert torch.equal(encode(model, ids, mask, types, has_padding=True), encode(model, ids, mask, types))
        assert torch.equal(encode(model, ids, full, types, has_padding=False), encode(model, ids, full, types))


def truncate(folder, length):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"model: no model\.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), r"model: no config\.json"),
        (lambda folder: truncate(folder, 0), r"model\.safetensors: cannot be loaded"),
        (lambda folder: truncate(folder, 7), r"model\.safetensors: cannot be loaded"),
        (lambda folder: truncate(folder, 5000), r"model\.safetensors: cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: not a model config"),
        (
            lambda folder: change_config(folder, intermediate_size=128),
            r"\d+ weights are missing or of another shape, first bert\.encoder.*belong to the same model$",
        ),
        (lambda folder: change_config(folder, num_hidden_layers=5), r"16 weights are missing.*layer\.4.*same model$"),
    ],
    ids=["no weights", "no config", "empty", "no header", "truncated", "not JSON", "other shapes", "more layers"],
)
@pytest.mark.parametrize("fresh_head", [False, True])
def test_a_damaged_model_is_rejected(copied, damage, message, fresh_head):
    damage(copied)
    with pytest.raises(InputError, match=message):
        load_masked_lm(str(copied), fresh_head=fresh_head)


def test_another_architecture_is_rejected_by_name(tmp_path):
    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    RobertaForMaskedLM(RobertaConfig(**size, intermediate_size=16)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="model type roberta is not supported; use bert or distilbert"):
        load_masked_lm(str(tmp_path))


def test_code_in_a_model_folder_never_runs_also_if_the_user_would_consent(copied, tmp_path, monkeypatch):
    change_config(copied, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match=r"config.json: not a model config"):
        load_masked_lm(str(copied))
    assert not (tmp_path / "ran").exists()


def test_an_encoder_without_a_head_is_rejected_with_the_fix(bare_dir):
    with pytest.raises(InputError, match=r"missing.*cls\..*jobs\.train_teacher"):
        load_masked_lm(bare_dir)


def test_a_fresh_head_follows_the_torch_seed_and_the_encoder_keeps_its_weights(bare_dir, teacher_dir):
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = load_masked_lm(bare_dir, fresh_head=True)
        heads.append(model.state_dict()[HEAD_WEIGHT])
    trained = load_masked_lm(teacher_dir).state_dict()
    assert torch.equal(heads[0], heads[1])
    assert not any(torch.equal(heads[0], other) for other in (heads[2], trained[HEAD_WEIGHT]))
    encoder = BertModel.from_pretrained(bare_dir, add_pooling_layer=False).state_dict()
    assert model.bert.state_dict().keys() == encoder.keys()
    assert all(torch.equal(model.bert.state_dict()[name], tensor) for name, tensor in encoder.items())
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_a_loaded_model_is_in_eval_mode_and_fp32(model_dir):
    model = load_masked_lm(model_dir)
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@torch.no_grad()
def test_encoder_and_head_compute_the_forward_pass_of_transformers(model_dir):
    input_ids, attention_mask, token_type_ids = random_batch()
    peer, model = AutoModelForMaskedLM.from_pretrained(model_dir).eval(), load_masked_lm(model_dir)
    segments = {"token_type_ids": token_type_ids} if peer.config.model_type == "bert" else {}
    expected = peer(input_ids, attention_mask=attention_mask, output_hidden_states=True, **segments)
    hidden = encode(model, input_ids, attention_mask, token_type_ids)
    torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=0, atol=0)
    torch.testing.assert_close(vocabulary_logits(model, hidden), expected.logits, rtol=1e-6, atol=1e-6)
    rows = vocabulary_logits(model, hidden.flatten(0, 1)[[3, 20]])
    torch.testing.assert_close(rows, expected.logits.flatten(0, 1)[[3, 20]], rtol=1e-5, atol=1e-5)
    untyped = encode(model, input_ids, attention_mask, None)
    assert torch.allclose(hidden, untyped) == (peer.config.model_type == "distilbert")


@torch.no_grad()
def test_padding_does_not_change_the_hidden_states_of_tokens(model_dir):
    input_ids, _, token_type_ids = random_batch(size=1, length=12)
    inputs = input_ids, torch.ones_like(input_ids), token_type_ids
    model = load_masked_lm(model_dir)
    padded = encode(model, *[torch.nn.functional.pad(tensor, (0, 6)) for tensor in inputs])
    torch.testing.assert_close(padded[:, :12], encode(model, *inputs), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_saved_model_has_the_same_ids_logits_and_answers_in_transformers(model_dir, teacher_dir):
    text = "paris is the [MASK] of france, and the river was big!"
    peer = pipeline("fill-mask", model=model_dir, top_k=3)
    inputs = peer.tokenizer(text, return_tensors="pt")
    ids = inputs["input_ids"]
    assert ids[0].tolist() == build_tokenizer(read_tokenizer(model_dir)).encode(text).ids
    assert ("token_type_ids" in inputs) == (peer.model.config.model_type == "bert")
    assert peer.tokenizer.model_max_length == peer.model.config.max_position_embeddings
    assert peer.model.config.architectures == [type(peer.model).__name__]
    model = load_masked_lm(model_dir)
    logits = vocabulary_logits(model, encode(model, ids, torch.ones_like(ids), torch.zeros_like(ids)))
    torch.testing.assert_close(logits, peer.model(**inputs).logits, rtol=1e-6, atol=1e-6)
    best = logits[ids == 4].softmax(1).topk(3)
    answers = peer(text)
    assert [answer["token"] for answer in answers] == best.indices[0].tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(best.values[0].tolist(), rel=1e-5)
    assert read_tokenizer(model_dir) == read_tokenizer(teacher_dir)


def test_the_head_parameters_are_those_outside_the_encoder(model_dir):
    model = load_masked_lm(model_dir)
    names = [name for name, _ in model.named_parameters()]
    head = {name for name in names if not name.startswith(f"{model.config.model_type}.")}
    assert {name for name in names if is_head_parameter(name)} == head != set()
    in_layers = [parameter.numel() for name, parameter in model.named_parameters() if ".layer." in name]
    assert count_layer_parameters(model) == sum(in_layers)


def test_the_words_of_the_tiny_pipeline_are_single_tokens(teacher_dir):
    tokenizer = build_tokenizer(read_tokenizer(teacher_dir))
    assert {len(tokenizer.encode(word, add_special_tokens=False).ids) for word in WORDS} == {1}


def test_only_a_fresh_head_starts_with_the_log_frequencies_of_the_tokens(teacher_dir):
    model = load_masked_lm(teacher_dir)
    bias = model.cls.predictions.bias.data.zero_()
    counts = np.arange(len(bias) - 3, dtype=np.int64)  # the head has three outputs more than the tokenizer tokens
    assert initialize_head_bias(model, counts)
    assert torch.allclose(bias.exp().sum(), torch.tensor(1.0))
    assert torch.allclose((bias[20] - bias[10]).exp(), torch.tensor(20.1 / 10.1))
    assert torch.equal(bias[-3:], bias[:1].expand(3))
    initialized = bias.clone()
    assert not initialize_head_bias(model, counts[::-1])
    assert torch.equal(bias, initialized)
