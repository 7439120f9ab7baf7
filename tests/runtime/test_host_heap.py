"""A process that keeps its memory gets large buffers again without new page faults."""

import os
import platform
import subprocess
import sys

import pytest
from repository import ROOT

from timix_jax.runtime.host_heap import keep_freed_memory

ROUNDS, SIZE = 20, 2**26
FAULTS = f"""
import resource, sys
from pathlib import Path
import numpy as np
from timix_jax.runtime.host_heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory(Path("/nowhere"))
np.ones({SIZE}, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    np.ones({SIZE}, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def environment_without_settings() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


def faults(how: str) -> int:
    env = environment_without_settings()
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=env, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="configures glibc's malloc")
def test_freed_memory_is_reused():
    assert faults("keep") < 100
    # The kernel may give NumPy pages of 2 MiB.
    assert faults("default") >= ROUNDS * SIZE // 2**21


@pytest.mark.parametrize("name", ["accel0", "vfio/0", "nvidia0", "kfd"])
def test_nothing_changes_with_an_accelerator(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert not keep_freed_memory(tmp_path)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_in_the_environment_take_precedence(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory(tmp_path)
