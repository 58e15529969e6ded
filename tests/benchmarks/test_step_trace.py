"""Properties of the distillation step on a GPU that a trace with fake tensors can show without one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distilray.config.distillation import DistillConfig
from distilray.config.plan import ModelShapeConfig
from distilray.distillation.memory import worker_memory_gb
from distilray.models.flops import ModelSize
from distilray.operations.plan.roofline import REAL_RUN_SHARE, StepWork, element_wise_bytes
from distilray.operations.plan.workload import meta_models

LENGTH, VOCABULARY, MASK_SHARE = 512, 30_522, 0.15
LAYER_WISE = {"alpha_hidden": 1.0, "alpha_attention": 1.0, "alpha_values": 1.0}
GB = 1e9


def case(rows: int = 32, variant: str = "compiled", precision: str = "bf16", **losses: Any) -> dict[str, Any]:
    return {"config": {"precision": precision, "losses": losses}, "rows": rows, "variant": variant}


FAST_CASES = {"compiled": case()}
SLOW_CASES = {
    "eager, fp16, masked": case(variant="eager", precision="fp16", ce_positions="masked"),
    "eager": case(variant="eager"),
    "masked": case(ce_positions="masked"),
    "fp32": case(precision="fp32"),
    "eager, fp32": case(precision="fp32", variant="eager"),
    "8 rows": case(rows=8),
    "128 rows": case(rows=128),
    "layer-wise": case(variant="eager", **LAYER_WISE),
}
CASES = FAST_CASES | SLOW_CASES
ALL = [*FAST_CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)]
Trace = dict[str, Any]


@pytest.fixture(scope="module")
def trace_of(root: Path) -> Callable[[str], Trace]:
    """Return the trace of a case. All fast cases are traced together, and so are the slow ones."""
    if torch.version.cuda is not None and not torch.cuda.is_available():
        pytest.skip("torch was built for CUDA and finds no GPU; only a CPU build can simulate one")
    if torch.version.cuda is None and shutil.which("g++") is None:
        pytest.skip("simulating a GPU needs g++")
    results: dict[str, Trace] = {}

    def trace(name: str) -> Trace:
        if name not in results:
            is_fast = name in FAST_CASES or name == "faults"
            cases = FAST_CASES | {"faults": {}} if is_fast else SLOW_CASES | {"published run": {}}
            command = [sys.executable, "-m", "tests.tiny.step_traces"]
            environment = {**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root}"}
            output = subprocess.run(
                command, input=json.dumps(cases), stdout=subprocess.PIPE, text=True, env=environment
            )
            assert output.returncode == 0
            results.update(json.loads(output.stdout))
        return results[name]

    return trace


def element_wise(trace: Trace, *components: str) -> float:
    return sum(trace["bytes"].get(f"{component}, element-wise", 0) for component in components)


@pytest.mark.parametrize("name", ALL)
def test_everything_is_computed_on_the_gpu_and_the_host_hardly_waits(
    trace_of: Callable[[str], Trace], name: str
) -> None:
    trace = trace_of(name)
    assert trace["host_operations"] == {}
    assert sum(trace["synchronizations"].values()) <= 2


def test_the_trace_reports_computation_on_the_host_and_reads_of_values(trace_of: Callable[[str], Trace]) -> None:
    assert trace_of("faults") == {
        "synchronizations": [
            "aten._local_scalar_dense.default",
            "aten.nonzero.default",
            "aten.index.Tensor",
            "copy to the host",
            "blocking copy from the host",
        ],
        "host_operations": ["aten.ones.default"],
    }


@pytest.mark.parametrize("name", FAST_CASES)
def test_traced_flops_are_those_that_mfu_counts(trace_of: Callable[[str], Trace], name: str) -> None:
    # The fused attention kernel computes the scores again in the backward pass, which MFU does not count.
    assert trace_of(name)["flops"] == pytest.approx(trace_of(name)["model_flops"], rel=0.02)


def test_a_checkpoint_contains_weights_and_two_moments_in_fp32(trace_of: Callable[[str], Trace]) -> None:
    assert trace_of("compiled")["snapshot_bytes"] == pytest.approx(3 * 4 * 66_985_530, rel=1e-4)


def test_the_compiled_loss_moves_few_bytes_besides_its_matrix_products(trace_of: Callable[[str], Trace]) -> None:
    assert element_wise(trace_of("compiled"), "vocabulary loss") <= 8 * GB


@pytest.mark.parametrize("gpu", ["H200", "A100"])
def test_the_compiled_step_is_projected_to_use_nearly_half_of_a_gpu(trace_of: Callable[[str], Trace], gpu: str) -> None:
    assert trace_of("compiled")["mfu"][gpu] >= 0.45


@pytest.mark.slow
def test_the_plan_assumes_the_share_of_its_projection_that_the_published_run_reached(
    trace_of: Callable[[str], Trace],
) -> None:
    run = trace_of("published run")
    assert run["measured"] / run["projected"] == pytest.approx(REAL_RUN_SHARE, abs=0.02)


@pytest.mark.parametrize("name", ALL[:-1])  # the formula does not cover layer-wise losses
def test_bytes_follow_the_formula_of_the_plan(trace_of: Callable[[str], Trace], name: str) -> None:
    settings, trace = CASES[name], trace_of(name)
    work = StepWork(
        flops=trace["model_flops"],
        tokens=trace["tokens"],
        head_rows=trace["tokens"] * (MASK_SHARE if "masked" in name else 1.0),
        micro_steps=1,
        student=ModelSize(6, 768, 3072, VOCABULARY),
        teacher=ModelSize(12, 768, 3072, VOCABULARY),
        is_16_bit=settings["config"]["precision"] != "fp32",
        has_compiled_layers=settings["variant"] == "compiled",
        has_compiled_loss=settings["variant"] == "compiled",
    )
    traced = element_wise(trace, "teacher", "student", "head", "vocabulary loss")
    assert element_wise_bytes(work) == pytest.approx(traced, rel=0.1)


@pytest.mark.parametrize("name", ALL)
def test_peak_memory_is_close_to_the_estimate_of_the_dry_run(trace_of: Callable[[str], Trace], name: str) -> None:
    settings = CASES[name]
    values = {"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", "micro_batch_size": settings["rows"]}
    compiled = settings["variant"] == "compiled"
    config = DistillConfig.model_validate({**values, **settings["config"], "compile": compiled})
    model, teacher = meta_models(ModelShapeConfig(), config)
    estimate = worker_memory_gb(
        config, config.losses, max_seq_length=LENGTH, masked_share=MASK_SHARE, model=model, teacher=teacher
    )
    assert estimate == pytest.approx(trace_of(name)["peak_bytes"] / GB, rel=0.2)
