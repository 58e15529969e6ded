import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from distilray.config.glue import TrialConfig
from distilray.errors import InputError
from tuning.plan import GIB, ModelShape, TrialNeed, check_device, estimate_bytes, split_slots, trial_need

BERT_BASE = ModelShape(parameters=109_483_778, layers=12, hidden=768, heads=12, intermediate=3072)


@pytest.mark.parametrize(
    ("room", "tasks", "expected"), [(7, 3, [3, 2, 2]), (6, 3, [2, 2, 2]), (2, 3, [1, 1, 1]), (5, 1, [5])]
)
def test_slots_are_divided_among_the_tasks_and_each_has_one(room, tasks, expected):
    assert split_slots(room, tasks) == expected


@pytest.mark.parametrize(("on_device", "numbers", "mask", "rest"), [(True, 4, 1, GIB), (False, 8, 4, GIB // 2)])
def test_the_estimate_is_the_sum_of_weights_activations_and_the_process(on_device, numbers, mask, rest):
    weights = BERT_BASE.parameters * numbers * 4
    per_layer = (32 + 2 * mask) * 768 + 8 * 3072 + (8 + mask) * 12 * 128
    estimate = estimate_bytes(BERT_BASE, batch_size=32, max_length=128, on_device=on_device)
    assert estimate == weights + 32 * 128 * (12 * per_layer + 12 * 768) + rest
    assert not on_device or 5 * GIB < estimate < 8 * GIB


def test_the_estimate_is_close_to_the_memory_that_torch_keeps_for_the_backward_pass():
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config._attn_implementation = "eager"  # the one that keeps every attention map
    model, saved = BertForSequenceClassification(config).train(), {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.ones(4, 64, dtype=torch.long)).logits.sum()
    assert output.requires_grad
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    activations = sum(size for pointer, size in saved.items() if pointer not in weights)
    shape = ModelShape(0, layers=2, hidden=32, heads=2, intermediate=64)
    estimate = estimate_bytes(shape, batch_size=4, max_length=64, on_device=False) - GIB // 2
    assert 0.8 * estimate < activations < 1.05 * estimate


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (BertForSequenceClassification, BertConfig(vocab_size=50, num_hidden_layers=1, intermediate_size=64)),
        (DistilBertForSequenceClassification, DistilBertConfig(vocab_size=50, n_layers=1, hidden_dim=64)),
    ],
)
def test_the_shape_of_both_architectures_is_read(model_class, config):
    model = model_class(config)
    assert ModelShape.of(model) == ModelShape(model.num_parameters(), 1, 768, 12, 64)


def test_memory_is_that_of_the_recipe_and_requested_only_without_a_device():
    trial = TrialConfig(cpus=1, gpus=0, memory_gb=3)
    assert trial_need(trial, BERT_BASE, batch_size=64, max_length=512) == TrialNeed(1, 0, 3_000_000_000)
    for gpus in (0, 0.5):
        need = trial_need(TrialConfig(cpus=1, gpus=gpus), BERT_BASE, batch_size=8, max_length=64)
        assert need.memory == estimate_bytes(BERT_BASE, batch_size=8, max_length=64, on_device=gpus > 0)
    assert TrialNeed(1, 0, GIB).request().bundle() == {"CPU": 1, "memory": GIB}
    assert TrialNeed(1, 0.5, GIB).request().bundle() == {"CPU": 1, "GPU": 0.5}
    assert str(TrialNeed(1, 0, GIB)) == "1 CPU, 1.0 GiB"
    assert str(TrialNeed(1, 0.5, GIB)) == "1 CPU, 0.5 GPU, 1.0 GiB of the device"


@pytest.mark.parametrize(
    ("gpus", "gib", "message"),
    [
        (0.25, 6, None),
        (0.25, 7, r"4 trials of 7\.0 GiB on a device of 24\.0 GiB; set trial\.gpus=0\.34"),
        (0.34, 7, None),
        (1.0, 30, "lower batch_size"),
    ],
)
def test_trials_that_do_not_fit_a_device_together_are_refused_with_a_share_that_fits(gpus, gib, message):
    need = TrialNeed(1, gpus, gib * GIB)
    if message is None:
        check_device(need, 24 * GIB)
    else:
        with pytest.raises(InputError, match=message):
            check_device(need, 24 * GIB)
