"""The estimated memory of a training worker."""

import pytest

from distilray.config.distillation import DistillConfig
from distilray.config.plan import ModelShapeConfig
from distilray.distillation.memory import worker_memory_gb
from distilray.operations.plan.workload import meta_models

LENGTH = 512
VALUES = {"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", "precision": "bf16", "batch_size": 2048}
VALUES |= {"compile": False}
MASKED, RECOMPUTED = {"ce_positions": "masked"}, {"activation_checkpointing": True}
HIDDEN, ATTENTION, VALUE_RELATIONS = ({f"alpha_{name}": 1.0} for name in ("hidden", "attention", "values"))
LAYER_WISE = {**HIDDEN, **ATTENTION, **VALUE_RELATIONS}
# Peaks in gigabytes for 8, 32 and 128 rows of 512 tokens, BERT base distilled into 6 layers with gradient accumulation.
# They were traced with `benchmarks.traced_step.trace_step(config, rows=..., length=512, micro_steps=2)`;
# tests/benchmarks/test_step_trace.py traces some of them again.
TRACED_GB = [
    ({}, 3.93, 6.53, 16.94),
    ({"losses": MASKED}, 2.99, 6.16, 16.25),
    (RECOMPUTED, 3.23, 3.73, 5.74),
    ({"losses": HIDDEN}, 4.17, 7.49, 20.76),
    ({"losses": ATTENTION}, 4.17, 9.79, 34.74),
    ({"losses": VALUE_RELATIONS}, 4.23, 12.51, 45.64),
    ({"losses": LAYER_WISE}, 5.07, 15.89, 59.13),
    ({"losses": {**LAYER_WISE, **MASKED}, **RECOMPUTED}, 4.40, 13.18, 48.31),
    ({"precision": "fp32"}, 4.87, 8.87, 24.86),
]


def estimated_gb(rows, *, length=LENGTH, **changes):
    config = DistillConfig.model_validate({**VALUES, "micro_batch_size": rows, **changes})
    model, teacher = meta_models(ModelShapeConfig(), config)
    if config.teacher_cache_dir is not None:
        teacher = None
    return worker_memory_gb(
        config, config.losses, max_seq_length=length, masked_share=0.15, model=model, teacher=teacher
    )


@pytest.mark.parametrize(("changes", "traced"), [(changes, traced) for changes, *traced in TRACED_GB], ids=str)
def test_the_estimate_is_within_a_tenth_of_a_trace(changes, traced):
    assert [estimated_gb(rows, **changes) for rows in (8, 32, 128)] == pytest.approx(traced, rel=0.1)


def test_a_token_budget_limits_the_memory():
    limit = {"micro_batch_tokens": 16 * LENGTH}
    assert estimated_gb(256, **limit) == estimated_gb(16)
    assert estimated_gb(256, length=128, **limit) == estimated_gb(64, length=128)


def test_cached_targets_need_neither_a_teacher_nor_its_logits():
    teacher_gb = 109.5e6 * 2 / 1e9  # parameters in bf16
    assert estimated_gb(32, teacher_cache_dir="-") < estimated_gb(32) - teacher_gb
