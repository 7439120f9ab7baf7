"""Memory that a process keeps: large buffers come again without the kernel's clearing of their pages."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from timix_jax.host_heap import keep_freed_memory

ROUNDS, SIZE = 20, 2**26
FAULTS = f"""
import resource, sys
from pathlib import Path
import numpy as np
from timix_jax.host_heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory(Path("/nowhere"))
np.ones({SIZE}, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    np.ones({SIZE}, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    env = {**kept, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=env, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's malloc"
)
def test_freed_memory_is_used_again():
    assert faults("keep") < 100
    # Pages may be as large as 2 MiB where the kernel gives NumPy such ones.
    assert faults("default") >= ROUNDS * SIZE // 2**21


@pytest.mark.parametrize("name", ["accel0", "vfio/0", "nvidia0", "kfd"])
def test_an_accelerator_leaves_it_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert not keep_freed_memory(tmp_path)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_environment_has_the_last_word(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory(tmp_path)
