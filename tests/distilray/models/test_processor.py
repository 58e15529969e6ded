from pathlib import Path

import pytest

from distilray.models import processor
from distilray.models.processor import cpu_features, cpu_name, has_fast_int8

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu sse avx2 avx512f avx512_vnni amx_int8 amx_tile avx512_bf16
bugs\t\t: avx_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"


def test_features_are_those_that_speed_up_int8_and_bf16():
    assert cpu_features(X86) == ["avx2", "avx512f", "avx512_vnni", "amx_int8", "avx512_bf16"]
    assert cpu_features(ARM) == ["asimddp", "i8mm", "bf16"]
    assert (cpu_name(X86), cpu_name(ARM)) == ("Some CPU @ 2.00GHz", "unknown")


@pytest.mark.parametrize(
    ("features", "fast"), [(["avx2", "avx512f"], False), (["avx512_vnni"], True), (["i8mm"], True), ([], False)]
)
def test_int8_is_fast_with_products_that_sum_in_32_bits(features, fast):
    assert has_fast_int8(features) is fast


def test_no_features_are_known_if_the_kernel_reports_none(monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", Path("/no/such/file"))
    assert (cpu_features(), cpu_name()) == ([], "unknown")
