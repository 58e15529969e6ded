import json
from pathlib import Path
from shutil import copy, copytree

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

from distilray.errors import InputError
from distilray.finetuning.classifier import load_classifier, load_fine_tuned, output_order, save_classifier
from distilray.finetuning.tasks import TASKS
from distilray.models.masked_lm import load_masked_lm, read_model_config
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import DEVIATION

HEADS = ("classifier.", "pre_classifier.", "bert.pooler.")


@pytest.fixture(params=["bert", "distilbert"])
def model_dir(request):
    return request.getfixturevalue(f"{request.param}_dir")


def classifier(name, model_dir, *, seed=1, dropout=None):
    return load_classifier(model_dir, TASKS[name], seed=seed, dropout=dropout)


def saved(model, folder, model_dir):
    save_classifier(model, str(folder), read_tokenizer(model_dir))
    return str(folder)


def parameters(model, *, head):
    return {name: value for name, value in model.named_parameters() if name.startswith(HEADS) == head}


def are_equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_encoder_is_that_of_the_masked_language_model(model_dir):
    encoder, masked_lm = parameters(classifier("cola", model_dir), head=False), load_masked_lm(model_dir)
    assert encoder
    assert are_equal(encoder, {name: masked_lm.get_parameter(name) for name in encoder})


def test_the_head_depends_only_on_the_seed_and_uses_no_random_state_of_torch(model_dir):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    heads = [parameters(classifier("mnli", model_dir, seed=seed), head=True) for seed in (1, 1, 2)]
    assert are_equal(heads[0], heads[1])
    assert not torch.equal(heads[0]["classifier.weight"], heads[2]["classifier.weight"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len([name for name in heads[0] if name.endswith("weight")]) == 2
    for name, value in heads[0].items():
        assert float(value.detach().std()) == pytest.approx(0.0 if name.endswith("bias") else DEVIATION, rel=0.25)


def test_the_config_names_the_task_and_its_labels(model_dir):
    config = classifier("mnli", model_dir).config
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.problem_type == "single_label_classification"
    config = classifier("stsb", model_dir).config
    assert (config.num_labels, config.problem_type, config.id2label) == (1, "regression", {0: "score"})


def dropouts(model):
    configured = {value for name, value in vars(model.config).items() if "dropout" in name and name != "qa_dropout"}
    return (configured - {None}) | {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}


def test_dropout_is_the_requested_one_or_that_of_the_model(model_dir):
    assert dropouts(classifier("cola", model_dir, dropout=0.0)) == {0.0}
    assert dropouts(classifier("cola", model_dir, dropout=0.35)) == {0.35}
    assert 0.1 in dropouts(classifier("cola", model_dir))


@pytest.mark.parametrize("name", ["rte", "stsb"])
def test_a_saved_model_is_loaded_unchanged_also_by_plain_transformers(model_dir, tmp_path, name):
    model = classifier(name, model_dir)
    folder = saved(model, tmp_path / "saved", model_dir)
    plain, loaded = AutoModelForSequenceClassification.from_pretrained(folder), load_fine_tuned(folder, TASKS[name])
    assert are_equal(dict(model.named_parameters()), dict(loaded.named_parameters()))
    inputs = AutoTokenizer.from_pretrained(folder)("good day", "the sun", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        torch.testing.assert_close(plain.eval()(**inputs).logits, logits, rtol=1e-6, atol=1e-6)
        assert torch.equal(loaded(**inputs).logits, logits)
    assert plain.config.id2label == {"rte": {0: "entailment", 1: "not_entailment"}, "stsb": {0: "score"}}[name]
    assert type(plain) is type(model)
    assert not loaded.training


def test_a_model_of_another_task_provides_its_encoder_but_no_head(model_dir, tmp_path):
    model = classifier("mnli", model_dir, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    folder = saved(model, tmp_path / "saved", model_dir)
    for name in ("rte", "stsb", "mnli"):
        loaded, fresh = (classifier(name, source, seed=2) for source in (folder, model_dir))
        assert are_equal(parameters(loaded, head=False), parameters(model, head=False))
        for part in ("classifier.weight", "classifier.bias"):
            assert loaded.get_parameter(part).shape == fresh.get_parameter(part).shape
            assert float(loaded.get_parameter(part).detach().mean().abs()) < 0.5


def test_a_bare_encoder_keeps_its_pooler(bert_dir, tmp_path):
    encoder = BertModel.from_pretrained(bert_dir)
    with torch.no_grad():
        encoder.pooler.dense.weight.fill_(0.25)
    encoder.save_pretrained(tmp_path)
    assert (classifier("cola", str(tmp_path)).bert.pooler.dense.weight == 0.25).all()


def test_saving_removes_old_files(bert_dir, tmp_path):
    (tmp_path / "old").write_text("")
    saved(classifier("cola", bert_dir), tmp_path, bert_dir)
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", None, "no config.json"),
        ("model.safetensors", None, "no model.safetensors"),
        ("config.json", {"model_type": "gpt2"}, "model type gpt2 is not supported; use bert or distilbert"),
        ("config.json", {"num_hidden_layers": 3}, "16 weights are missing .* shape, first bert.encoder.layer.2"),
        ("model.safetensors", 999, r"model\.safetensors: cannot be loaded"),
    ],
    ids=["no config", "no weights", "architecture", "more layers", "torn weights"],
)
def test_an_unusable_model_is_refused_by_file(bert_dir, tmp_path, file, change, message):
    path = Path(copytree(bert_dir, tmp_path / "model"), file)
    if change is None:
        path.unlink()
    elif isinstance(change, int):
        path.write_bytes(path.read_bytes()[:change])
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        load_classifier(str(tmp_path / "model"), TASKS["cola"], seed=1)


def test_a_fine_tuned_model_without_all_weights_is_refused(bert_dir, tmp_path):
    folder = saved(classifier("cola", bert_dir), tmp_path, bert_dir)
    with pytest.raises(InputError, match=r"config\.json: fine-tuned on cola, but a model for rte is needed"):
        load_fine_tuned(folder, TASKS["rte"])
    copy(Path(bert_dir, "model.safetensors"), folder)
    with pytest.raises(InputError, match=r"4 weights are missing or of another shape, first bert.pooler.dense.bias"):
        load_fine_tuned(folder, TASKS["cola"])


@pytest.mark.parametrize(
    ("name", "config", "order"),
    [
        ("rte", {"id2label": ["not_entailment", "entailment"]}, [1, 0]),
        ("rte", {"id2label": ["Entailment", "not entailment"]}, [0, 1]),
        ("wnli", {"id2label": ["entailment", "not_entailment"]}, [1, 0]),  # the names on the hub
        ("stsb", {"id2label": ["LABEL_0"]}, [0]),
        ("rte", {"id2label": ["yes", "no"]}, "labels yes, no, but rte has entailment, not_entailment"),
        ("wnli", {"id2label": ["yes", "no"]}, "labels yes, no, but wnli has 0, 1 or not_entailment, entailment"),
        ("stsb", {"id2label": ["0", "1"]}, "2 outputs, but stsb needs one score"),
        ("rte", {"finetuning_task": "cola"}, "fine-tuned on cola, but a model for rte is needed"),
        ("stsb", {"finetuning_task": "cola"}, "fine-tuned on cola, but a model for stsb is needed"),
        ("cola", {"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM has no task head"),
    ],
)
def test_outputs_are_matched_to_labels_by_name(bert_dir, name, config, order):
    changed = read_model_config(bert_dir)
    changed.architectures, changed.id2label = None, dict(enumerate(config.get("id2label", ["0", "1"])))
    changed.update({key: value for key, value in config.items() if key != "id2label"})
    if isinstance(order, str):
        with pytest.raises(InputError, match=rf"^model/config\.json: {order}"):
            output_order("model", changed, TASKS[name])
    else:
        assert output_order("model", changed, TASKS[name]) == order
