"""The compiled training step: equal to the eager one, and compiled once for all batch sizes and widths."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from distilray.config.distillation import LossConfig
from distilray.distillation.compilation import compile_layers
from distilray.distillation.objective import LossDivisors, TensorBatch
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.student import create_student
from distilray.pretraining_data.batches import Batch
from tests.distilray.distillation import compiled_group

LAYER_LOSSES = LossConfig(alpha_hidden=2.0, alpha_attention=0.5, alpha_values=3.0)
# Batch size, width and number of rows with padding. The first two have all variants of a layer.
SHAPES = [(5, 24, 4), (2, 16, 0), (7, 32, 2), (3, 24, 0), (6, 16, 5), (9, 8, 1)]


@pytest.fixture(autouse=True)
def _reset():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def batches():
    """Random batches, each with the divisors of its loss."""
    result, random = [], np.random.default_rng(3)
    for size, width, padded in SHAPES:
        lengths = np.full(size, width)
        lengths[:padded] -= 1 + np.arange(padded)
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = random.integers(5, 60, (size, width)) * mask
        index = np.flatnonzero(mask)[2::6]
        batch = TensorBatch.of(Batch(ids, mask, np.zeros_like(ids), index, ids.flat[index]))
        result.append((batch, LossDivisors(mask.sum(), len(index), (lengths**2).sum())))
    return result


def step(module, batch, counts):
    """Return the loss terms and the gradient of a micro-step."""
    module.zero_grad()
    loss, terms = module(batch, counts)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    return {name: term.item() for name, term in terms.items()}, gradient


def assert_equal_steps(eager, compiled, batches):
    """Compare the steps of two modules, and check that the third and later batches compile nothing."""
    for number, (batch, counts) in enumerate(batches):
        expected_terms, expected = step(eager, batch, counts)
        graphs = counters["stats"]["unique_graphs"]
        terms, gradient = step(compiled, batch, counts)
        assert terms == pytest.approx(expected_terms, rel=1e-5)
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
        assert number < 2 or counters["stats"]["unique_graphs"] == graphs > 0
    assert not counters["graph_break"]


@pytest.mark.slow
def test_a_compiled_layer_equals_the_eager_one_for_all_shapes(monkeypatch, teacher_dir, batches):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # no C++ compiler
    eager, compiled = (
        create_student(load_masked_lm(teacher_dir), layers=[0])[0].eval().requires_grad_(True) for _ in range(2)
    )
    compile_layers(compiled)
    for batch, _ in batches[::2]:
        gradients = []
        for model in (eager, compiled):
            model.zero_grad()
            inputs = batch.input_ids, batch.attention_mask, batch.token_type_ids
            hidden = encode(model, *inputs, has_padding=True)
            hidden.sin().sum().backward()
            gradients.append(torch.cat([each.grad.flatten() for each in model.base_model.parameters()]))
        assert (gradients[1] - gradients[0]).norm() <= 1e-5 * gradients[0].norm()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "recompute"), [(LossConfig(), False), (LAYER_LOSSES, True)], ids=["vocabulary", "layers, recomputed"]
)
def test_generated_code_equals_the_eager_step_for_all_shapes(teacher_dir, batches, losses, recompute):
    modules = (
        compiled_group.module_of(teacher_dir, losses, compiled=compiled, recompute=recompute)
        for compiled in (False, True)
    )
    assert_equal_steps(*modules, batches)


@pytest.mark.slow
def test_workers_average_the_gradients_of_compiled_layers_in_several_buckets(root, tmp_path, teacher_dir, shards_dir):
    arguments = json.dumps([teacher_dir, shards_dir, str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": f"{root}/platform:{root}", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, compiled_group.__file__, arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr[-3000:]
    for rank in range(2):
        record = json.loads((tmp_path / f"{rank}.json").read_text())
        assert record["buckets"] > 2
        assert record["graph_breaks"] == 0
        assert record["differences"] == pytest.approx([0.0] * len(record["differences"]), abs=1e-5)
