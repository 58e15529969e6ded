import platform
import subprocess
import sys

import pytest

# In a thread, as the loop of a Ray Train worker is. glibc maps what is above 32 MB anew, unless told otherwise.
STEPS, MB = 10, 48
SCRIPT = f"""
import resource
import threading
import torch
from distilray.models.processor import configure_cpu

def fresh_mb():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        torch.zeros({MB} * 2**20, dtype=torch.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() // 2**20

def loop():
    before = fresh_mb()
    configure_cpu(1)
    fresh_mb(), fresh_mb()  # until the heap has grown
    print(before, fresh_mb(), torch.get_num_threads())

thread = threading.Thread(target=loop)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_of_the_next_step_lie_where_those_of_the_last_one_were():
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    before, after, threads = map(int, printed.split())
    assert before >= STEPS * MB
    assert after < MB
    assert threads == 1
