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


def test_the_estimate_of_bert_base_is_the_sum_of_its_parts():
    on_device = estimate_bytes(BERT_BASE, batch_size=32, max_length=128, on_device=True)
    weights = BERT_BASE.parameters * 16
    # 4096 tokens x 12 layers x (34 x 768 + 8 x 3072 + 9 x 12 x 128) bytes, of embeddings 12 x 768, and 1 GiB
    assert on_device == weights + 4096 * (12 * (34 * 768 + 8 * 3072 + 9 * 12 * 128) + 12 * 768) + GIB
    assert 5 * GIB < on_device < 8 * GIB


def test_more_examples_and_longer_ones_need_more():
    sizes = [
        estimate_bytes(BERT_BASE, batch_size=batch, max_length=length, on_device=True)
        for batch, length in ((8, 128), (16, 128), (16, 256))
    ]
    assert sizes == sorted(sizes)
    assert sizes[2] - sizes[1] > sizes[1] - sizes[0]


def test_the_estimate_is_close_to_the_memory_that_torch_keeps_for_the_backward_pass():
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config._attn_implementation = "eager"  # the one that keeps every attention map
    model = BertForSequenceClassification(config).train()
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.ones(4, 64, dtype=torch.long)).logits.sum()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    activations = sum(size for pointer, size in saved.items() if pointer not in weights)
    shape = ModelShape.of(model)
    empty = ModelShape(0, shape.layers, shape.hidden, shape.heads, shape.intermediate)
    estimate = estimate_bytes(empty, batch_size=4, max_length=64, on_device=False) - GIB // 2
    assert output.requires_grad
    assert 0.8 * estimate < activations < 1.05 * estimate


def test_the_shape_of_both_architectures_is_read():
    bert = BertForSequenceClassification(BertConfig(vocab_size=50, num_hidden_layers=1, intermediate_size=64))
    distilbert = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=50, n_layers=1, hidden_dim=64))
    for model in (bert, distilbert):
        shape = ModelShape.of(model)
        assert (shape.layers, shape.hidden, shape.heads, shape.intermediate) == (1, 768, 12, 64)
        assert shape.parameters == model.num_parameters()


def test_memory_in_the_recipe_replaces_the_estimate():
    trial = TrialConfig(cpus=1, gpus=0, memory_gb=3)
    assert trial_need(trial, BERT_BASE, batch_size=64, max_length=512).memory == 3_000_000_000


def test_memory_is_a_resource_of_trials_without_a_device_only():
    assert TrialNeed(1, 0, GIB).request().bundle() == {"CPU": 1, "memory": GIB}
    assert TrialNeed(1, 0.5, GIB).request().bundle() == {"CPU": 1, "GPU": 0.5}


def test_trials_that_do_not_fit_a_device_together_are_refused_with_the_share_that_fits():
    check_device(TrialNeed(1, 0.25, 6 * GIB), 24 * GIB)
    with pytest.raises(InputError, match=r"4 trials of 7\.0 GiB on a device of 24\.0 GiB; set trial\.gpus=0\.34"):
        check_device(TrialNeed(1, 0.25, 7 * GIB), 24 * GIB)
    check_device(TrialNeed(1, 0.34, 7 * GIB), 24 * GIB)
    with pytest.raises(InputError, match="lower batch_size"):
        check_device(TrialNeed(1, 1.0, 30 * GIB), 24 * GIB)
