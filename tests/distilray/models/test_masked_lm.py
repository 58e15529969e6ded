import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel, RobertaConfig, RobertaForMaskedLM, pipeline

from distilray.errors import InputError
from distilray.models.heads import initialize_head_bias, is_head_parameter, vocabulary_logits
from distilray.models.masked_lm import encode, load_masked_lm, save_model
from distilray.models.precision import cpu_has_bf16, preferred_dtype
from distilray.models.student import create_student
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer
from tests.tiny.words import WORDS


@pytest.fixture(scope="module")
def student_dir(teacher_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    save_model(create_student(load_masked_lm(teacher_dir))[0], folder, read_tokenizer(teacher_dir))
    return str(folder)


@pytest.fixture
def copied(teacher_dir, tmp_path):
    return Path(shutil.copytree(teacher_dir, tmp_path / "model"))


@pytest.fixture
def bare_dir(teacher_dir, tmp_path):
    """The teacher's encoder without its masked-LM head."""
    load_masked_lm(teacher_dir).bert.save_pretrained(tmp_path / "bare")
    return str(tmp_path / "bare")


def random_batch(size=4, length=17, seed=1):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, 60, (size, length), generator=generator)
    lengths = torch.randint(5, length + 1, (size,), generator=generator)
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    token_type_ids = (torch.arange(length) >= lengths[:, None] // 2).long() * attention_mask
    return input_ids, attention_mask, token_type_ids


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(InputError, match=f"{copied}: no {name}"):
        load_masked_lm(str(copied))


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_truncated_weights_are_named(copied, keep):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be loaded"):
        load_masked_lm(str(copied))


def test_a_config_that_is_no_json_is_named(copied):
    (copied / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not a model config"):
        load_masked_lm(str(copied))


def test_weights_of_another_size_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(
        InputError, match=r"are missing or of another shape, first bert\.encoder.*belong to the same model$"
    ):
        load_masked_lm(str(copied))


def test_a_model_with_more_layers_than_weights_is_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(InputError, match=r"16 weights are missing.*layer\.4"):
        load_masked_lm(str(copied), fresh_head=True)


def test_another_architecture_is_refused_by_name(tmp_path):
    config = RobertaConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="model type roberta is not supported; use bert or distilbert"):
        load_masked_lm(str(tmp_path))


def test_an_encoder_without_a_head_is_rejected_with_the_fix(bare_dir):
    with pytest.raises(InputError, match=r"missing.*cls\..*jobs\.train_teacher"):
        load_masked_lm(bare_dir)


def test_with_a_fresh_head_the_encoder_keeps_its_weights(bare_dir, teacher_dir):
    bare = BertModel.from_pretrained(bare_dir, add_pooling_layer=False)
    model = load_masked_lm(bare_dir, fresh_head=True)
    assert model.bert.state_dict().keys() == bare.state_dict().keys()
    for name, tensor in bare.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], tensor), name
    fresh, trained = model.state_dict(), load_masked_lm(teacher_dir).state_dict()
    name = "cls.predictions.transform.dense.weight"
    assert not torch.equal(fresh[name], trained[name])
    assert torch.equal(fresh["cls.predictions.decoder.weight"], trained["bert.embeddings.word_embeddings.weight"])


def test_a_fresh_head_follows_the_torch_seed(bare_dir):
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(load_masked_lm(bare_dir, fresh_head=True).cls.predictions.transform.dense.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_loaded_model_is_in_eval_mode_and_fp32(teacher_dir, student_dir):
    for folder in (teacher_dir, student_dir):
        model = load_masked_lm(folder)
        assert not any(module.training for module in model.modules())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_encoder_and_head_together_are_the_forward_pass_of_transformers(teacher_dir, student_dir):
    input_ids, attention_mask, token_type_ids = random_batch()
    for folder, extra in ((teacher_dir, {"token_type_ids": token_type_ids}), (student_dir, {})):
        reference = AutoModelForMaskedLM.from_pretrained(folder).eval()
        model = load_masked_lm(folder)
        with torch.no_grad():
            expected = reference(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **extra)
            hidden = encode(model, input_ids, attention_mask, token_type_ids)
            logits = vocabulary_logits(model, hidden)
            rows = vocabulary_logits(model, hidden.flatten(0, 1)[[3, 20]])
        torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=0, atol=0)
        torch.testing.assert_close(logits, expected.logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rows, expected.logits.flatten(0, 1)[[3, 20]], rtol=1e-5, atol=1e-5)


def test_the_token_types_reach_the_teacher(teacher_dir):
    model = load_masked_lm(teacher_dir)
    input_ids, attention_mask, token_type_ids = random_batch()
    with torch.no_grad():
        typed = encode(model, input_ids, attention_mask, token_type_ids)
        untyped = encode(model, input_ids, attention_mask, None)
    assert not torch.allclose(typed, untyped)


def test_padding_changes_no_hidden_state_of_a_real_token(teacher_dir, student_dir):
    input_ids, attention_mask, token_type_ids = random_batch(size=1, length=12)
    attention_mask = torch.ones_like(attention_mask)
    padded = [torch.nn.functional.pad(tensor, (0, 6)) for tensor in (input_ids, attention_mask, token_type_ids)]
    for folder in (teacher_dir, student_dir):
        model = load_masked_lm(folder)
        with torch.no_grad():
            whole = encode(model, input_ids, attention_mask, token_type_ids)
            torch.testing.assert_close(encode(model, *padded)[:, :12], whole, rtol=1e-5, atol=1e-5)


def test_a_saved_model_gives_the_same_ids_and_logits_in_transformers(teacher_dir, student_dir):
    text = "paris is the capital city of france, and the river was big!"
    for folder in (teacher_dir, student_dir):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
        inputs = tokenizer(text, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == build_tokenizer(read_tokenizer(folder)).encode(text).ids
        assert ("token_type_ids" in inputs) == (model.config.model_type == "bert")
        assert tokenizer.model_max_length == model.config.max_position_embeddings
        ours = load_masked_lm(folder)
        with torch.no_grad():
            hidden = encode(ours, inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids"))
            torch.testing.assert_close(vocabulary_logits(ours, hidden), model(**inputs).logits, rtol=1e-6, atol=1e-6)


def test_a_saved_model_answers_in_the_fill_mask_pipeline_of_transformers(teacher_dir, student_dir):
    text = "paris is the [MASK] of france."
    for folder in (teacher_dir, student_dir):
        ids = torch.tensor([build_tokenizer(read_tokenizer(folder)).encode(text).ids])
        model = load_masked_lm(folder)
        with torch.no_grad():
            hidden = encode(model, ids, torch.ones_like(ids), torch.zeros_like(ids))
            best = vocabulary_logits(model, hidden)[ids == 4].softmax(1).topk(3)
        answers = pipeline("fill-mask", model=folder, top_k=3)(text)
        assert [answer["token"] for answer in answers] == best.indices[0].tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(best.values[0].tolist(), rel=1e-5)


def test_the_tokenizer_of_a_saved_model_is_the_one_it_was_saved_with(teacher_dir, student_dir):
    assert read_tokenizer(student_dir) == read_tokenizer(teacher_dir)


def test_code_in_a_model_folder_never_runs_and_nobody_is_asked_whether_it_may(copied, tmp_path, monkeypatch):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match=r"config.json: not a model config"):
        load_masked_lm(str(copied))
    assert not (tmp_path / "ran").exists()


def test_the_head_parameters_are_those_that_a_bare_encoder_lacks(teacher_dir, student_dir):
    for folder, encoder in ((teacher_dir, "bert."), (student_dir, "distilbert.")):
        names = [name for name, _ in load_masked_lm(folder).named_parameters()]
        assert {name for name in names if is_head_parameter(name)} == {n for n in names if not n.startswith(encoder)}
        assert any(is_head_parameter(name) for name in names)


def test_the_preferred_dtype_of_a_cpu_is_bf16_exactly_where_it_computes_in_it():
    expected = torch.bfloat16 if cpu_has_bf16() else torch.float32
    assert preferred_dtype(torch.device("cpu")) == expected


def test_the_words_of_the_tiny_pipeline_are_single_tokens(teacher_dir):
    tokenizer = build_tokenizer(read_tokenizer(teacher_dir))
    assert {len(tokenizer.encode(word, add_special_tokens=False).ids) for word in WORDS} == {1}


def test_a_fresh_head_starts_with_the_log_frequencies_of_the_tokens(teacher_dir):
    model = load_masked_lm(teacher_dir)
    model.cls.predictions.bias.data.zero_()
    counts = np.arange(model.config.vocab_size, dtype=np.int64)
    assert initialize_head_bias(model, counts)
    likelihood = model.cls.predictions.bias.exp()
    assert torch.allclose(likelihood.sum(), torch.tensor(1.0))
    assert torch.allclose(likelihood[20] / likelihood[10], torch.tensor(20.1 / 10.1))


def test_a_trained_head_keeps_its_bias(teacher_dir):
    model = load_masked_lm(teacher_dir)
    model.cls.predictions.bias.data.fill_(0.5)
    assert not initialize_head_bias(model, np.ones(model.config.vocab_size, dtype=np.int64))
    assert (model.cls.predictions.bias == 0.5).all()
