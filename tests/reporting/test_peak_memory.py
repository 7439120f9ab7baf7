"""Peak memory against memory that the test allocates and frees."""

import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from timix_jax.reporting import peak_memory


def test_the_fullest_device_counts():
    stats = (
        {"peak_bytes_in_use": 3 << 30, "bytes_in_use": 9 << 30},
        {"peak_bytes_in_use": 5 << 29},
    )
    devices = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    assert peak_memory.peak_memory(devices)["device_memory_peak_gib"] == pytest.approx(3.0)


def test_a_cpu_reports_only_the_host_s():
    peaks = peak_memory.peak_memory(jax.local_devices())
    assert list(peaks) == ["host_memory_peak_gib"]
    assert peaks["host_memory_peak_gib"] == peak_memory.host_peak_bytes() / 2**30


PROGRAM = """
import numpy as np
from timix_jax.reporting.peak_memory import host_peak_bytes
print(host_peak_bytes())
block = np.ones(200 << 20, np.uint8)
del block
print(host_peak_bytes())
"""


def test_the_peak_is_the_process_s_own_and_stays():
    """A child does not start at its parent's peak, and freed memory still counts."""
    held = np.ones(600 << 20, np.uint8)
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    before, after = map(int, child.stdout.split())
    assert before < held.nbytes < peak_memory.host_peak_bytes()
    assert 190 << 20 < after - before < 300 << 20
