import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

from distilray.errors import InputError
from distilray.finetuning.classifier import load_classifier, load_fine_tuned, save_classifier
from distilray.finetuning.tasks import TASKS
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import DEVIATION

HEADS = ("classifier.", "pre_classifier.", "bert.pooler.")


@pytest.fixture(params=["bert", "distilbert"])
def model_dir(request, bert_dir, distilbert_dir):
    return {"bert": bert_dir, "distilbert": distilbert_dir}[request.param]


def classifier(name, model_dir, *, seed=1, dropout=None):
    return load_classifier(model_dir, TASKS[name], seed=seed, dropout=dropout)


def saved(model, folder, model_dir):
    save_classifier(model, str(folder), read_tokenizer(model_dir))
    return str(folder)


def parameters(model, *, head):
    return {name: value for name, value in model.named_parameters() if name.startswith(HEADS) == head}


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_encoder_is_that_of_the_masked_model(model_dir):
    found = parameters(classifier("cola", model_dir), head=False)
    given = dict(load_masked_lm(model_dir).named_parameters())
    assert found
    assert are_equal(found, {name: given[name] for name in found})


def test_the_seed_alone_decides_the_head(model_dir):
    torch.manual_seed(1)
    heads = [parameters(classifier("mnli", model_dir, seed=seed), head=True) for seed in (1, 1, 2)]
    assert are_equal(heads[0], heads[1])
    assert not torch.equal(heads[0]["classifier.weight"], heads[2]["classifier.weight"])
    assert len([name for name in heads[0] if name.endswith("weight")]) == 2
    for name, value in heads[0].items():
        assert float(value.detach().std()) == pytest.approx(0.0 if name.endswith("bias") else DEVIATION, rel=0.25)


def test_the_random_state_of_torch_stays_as_it_is(model_dir):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    classifier("cola", model_dir)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_config_says_task_and_words(model_dir):
    config = classifier("mnli", model_dir).config
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.problem_type == "single_label_classification"
    config = classifier("stsb", model_dir).config
    assert (config.num_labels, config.problem_type, config.id2label) == (1, "regression", {0: "score"})


def dropouts(model):
    return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} | {
        value
        for name, value in vars(model.config).items()
        if "dropout" in name and name != "qa_dropout" and value is not None
    }


def test_dropout_is_the_given_one_or_that_of_the_model(model_dir):
    assert dropouts(classifier("cola", model_dir, dropout=0.0)) == {0.0}
    assert dropouts(classifier("cola", model_dir, dropout=0.35)) == {0.35}
    assert 0.1 in dropouts(classifier("cola", model_dir))


def test_a_saved_model_answers_the_same_in_plain_transformers(model_dir, tmp_path):
    model = classifier("rte", model_dir)
    folder = saved(model, tmp_path / "saved", model_dir)
    plain, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("good day", "the sun", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        torch.testing.assert_close(plain.eval()(**inputs).logits, logits, rtol=1e-6, atol=1e-6)
        assert torch.equal(load_fine_tuned(folder, TASKS["rte"])(**inputs).logits, logits)
    assert plain.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert type(plain) is type(model)


def test_a_saved_model_comes_back_bit_for_bit(model_dir, tmp_path):
    model = classifier("stsb", model_dir)
    again = load_fine_tuned(saved(model, tmp_path / "saved", model_dir), TASKS["stsb"])
    assert are_equal(dict(model.named_parameters()), dict(again.named_parameters()))
    assert not again.training


def test_a_model_of_another_task_gives_its_encoder_and_no_head(model_dir, tmp_path):
    model = classifier("mnli", model_dir, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    folder = saved(model, tmp_path / "saved", model_dir)
    for name in ("rte", "stsb", "mnli"):
        found = classifier(name, folder, seed=2)
        assert are_equal(parameters(found, head=False), parameters(model, head=False))
        fresh = classifier(name, model_dir, seed=2)
        for part in ("classifier.weight", "classifier.bias"):
            assert found.get_parameter(part).shape == fresh.get_parameter(part).shape
            assert float(found.get_parameter(part).detach().mean().abs()) < 0.5


def test_a_bare_encoder_keeps_its_pooler(bert_dir, tmp_path):
    encoder = BertModel.from_pretrained(bert_dir)
    with torch.no_grad():
        encoder.pooler.dense.weight.fill_(0.25)
    encoder.save_pretrained(tmp_path)
    assert (classifier("cola", str(tmp_path)).bert.pooler.dense.weight == 0.25).all()


def test_saving_removes_what_was_there(bert_dir, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "old").write_text("")
    saved(classifier("cola", bert_dir), folder, bert_dir)
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("name", ["sst2", "mnli", "stsb"])
def test_a_model_of_another_task_is_not_taken_as_fine_tuned(bert_dir, tmp_path, name):
    folder = saved(classifier("cola", bert_dir), tmp_path / "saved", bert_dir)
    with pytest.raises(InputError, match=rf"config.json: fine-tuned on cola, but a model for {name} is needed"):
        load_fine_tuned(folder, TASKS[name])


def test_a_model_without_a_head_is_not_taken_as_fine_tuned(bert_dir):
    with pytest.raises(InputError, match="BertForMaskedLM has no task head"):
        load_fine_tuned(bert_dir, TASKS["cola"])


def test_a_fine_tuned_model_with_a_weight_missing_is_refused(bert_dir, tmp_path):
    folder = saved(classifier("cola", bert_dir), tmp_path / "saved", bert_dir)
    shutil.copy(Path(bert_dir, "model.safetensors"), folder)  # that of a masked language model
    with pytest.raises(InputError, match=r"4 weights are missing or of another shape, first bert.pooler.dense.bias"):
        load_fine_tuned(folder, TASKS["cola"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(bert_dir, tmp_path, name):
    folder = Path(shutil.copytree(bert_dir, tmp_path / "model"))
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}"):
        load_classifier(str(folder), TASKS["cola"], seed=1)


def test_another_architecture_is_named(bert_dir, tmp_path):
    folder = Path(shutil.copytree(bert_dir, tmp_path / "model"))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="model type gpt2 is not supported; use bert or distilbert"):
        load_classifier(str(folder), TASKS["cola"], seed=1)


def test_a_torn_file_of_weights_is_named(bert_dir, tmp_path):
    folder = Path(shutil.copytree(bert_dir, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999])
    with pytest.raises(InputError, match=r"model.safetensors: cannot be loaded") as error:
        load_classifier(str(folder), TASKS["cola"], seed=1)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_the_config_are_named(bert_dir, tmp_path):
    folder = Path(shutil.copytree(bert_dir, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"16 weights are missing or of another shape, first bert.encoder.layer.2"):
        load_classifier(str(folder), TASKS["cola"], seed=1)
