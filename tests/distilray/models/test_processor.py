import platform
import subprocess
import sys
from pathlib import Path

import pytest

from distilray.models import processor
from distilray.models.processor import cpu_features, cpu_name, format_cpu_features, has_fast_int8

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu sse avx2 avx512f avx512_vnni amx_int8 amx_tile avx512_bf16
bugs\t\t: avx_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name", "features", "fast_int8"),
    [
        (X86, "Some CPU @ 2.00GHz", ["avx2", "avx512f", "avx512_vnni", "amx_int8", "avx512_bf16"], True),
        (ARM, "unknown", ["asimddp", "i8mm", "bf16"], True),
        ("flags: avx2 avx512f", "unknown", ["avx2", "avx512f"], False),
        (None, "unknown", [], False),
    ],
    ids=["x86", "Arm", "x86 without VNNI", "no cpuinfo"],
)
def test_name_and_features_are_read_from_the_kernel(monkeypatch, cpuinfo, name, features, fast_int8):
    monkeypatch.setattr(processor, "CPUINFO", Path("/no/such/file"))
    assert (cpu_name(cpuinfo), cpu_features(cpuinfo)) == (name, features)
    assert has_fast_int8(features) is fast_int8
    assert format_cpu_features(features) == (", ".join(features) or "no instructions for int8 or bf16")


# In a thread, like the loop of a Ray Train worker. By default, glibc maps new pages for blocks above 32 MB.
STEPS, MB = 10, 48
SCRIPT = f"""
import resource, sys, threading, types
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=print)  # importing torch takes seconds
from distilray.models.processor import configure_cpu

def new_mb():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        b"x" * ({MB} << 20)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20

def loop():
    print(new_mb())
    configure_cpu(3)
    new_mb(), new_mb()  # until the heap has grown
    print(new_mb())

thread = threading.Thread(target=loop)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is a function of glibc")
def test_memory_is_reused_by_the_next_step():
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    before, threads, after = map(int, output.split())
    assert threads == 3
    assert before >= STEPS * MB
    assert after < MB
