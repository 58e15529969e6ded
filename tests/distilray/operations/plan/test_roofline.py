import dataclasses

import pytest

from distilray.models.flops import ModelSize, step_flops
from distilray.operations.plan.roofline import (
    BANDWIDTH_SHARE,
    MATRIX_PRODUCT_SHARE,
    REAL_RUN_SHARE,
    Roofline,
    StepWork,
    projected_mfu,
)

STUDENT, TEACHER, TOKENS, LENGTH = ModelSize(6, 768, 3072, 30_522), ModelSize(12, 768, 3072, 30_522), 32 * 512, 512
H200 = Roofline(989e12, 4.8e12)


def work(*, compiled: bool = False, masked: bool = False, half: bool = True) -> StepWork:
    rows = round(0.15 * TOKENS) if masked else TOKENS
    flops = step_flops(
        STUDENT,
        teacher=TEACHER,
        tokens=TOKENS,
        squared_lengths=TOKENS * LENGTH,
        head_rows=rows,
        teacher_head_rows=rows,
    )
    return StepWork(
        flops, TOKENS, rows, 1, STUDENT, TEACHER, half, has_compiled_layers=compiled, has_compiled_loss=compiled
    )


def test_a_kernel_is_limited_by_either_arithmetic_or_memory():
    device = Roofline(flops_per_s=100.0, bytes_per_s=10.0)
    assert device.seconds(flops=70.0, memory_bytes=1.0) == pytest.approx(70.0 / (100.0 * MATRIX_PRODUCT_SHARE))
    assert device.seconds(flops=1.0, memory_bytes=85.0) == pytest.approx(85.0 / (10.0 * BANDWIDTH_SHARE))


def test_with_unlimited_bandwidth_only_matrix_products_take_time():
    device = Roofline(989e12, 1e30)
    assert projected_mfu(work(), device) == pytest.approx(MATRIX_PRODUCT_SHARE * REAL_RUN_SHARE)


def test_compilation_and_masked_positions_lead_to_a_higher_utilization():
    eager, compiled = projected_mfu(work(), H200), projected_mfu(work(compiled=True), H200)
    assert eager < projected_mfu(work(masked=True), H200) < compiled


def test_a_compiled_loss_alone_is_between_the_two():
    loss_only = dataclasses.replace(work(), has_compiled_loss=True)
    assert projected_mfu(work(), H200) < projected_mfu(loss_only, H200) < projected_mfu(work(compiled=True), H200)


def test_without_a_teacher_fewer_bytes_are_moved():
    alone = dataclasses.replace(work(), teacher=None)
    assert projected_mfu(alone, H200) > projected_mfu(work(), H200)  # for the same FLOPs


def test_fp32_moves_more_bytes_of_compiled_kernels():
    assert projected_mfu(work(compiled=True, half=False), H200) < projected_mfu(work(compiled=True), H200)
