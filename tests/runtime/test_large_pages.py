"""A program that starts again, once, with a setting for glibc."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc's"
)

PROGRAM = """
import os, sys
from pathlib import Path
print(os.getpid(), flush=True)
from timix_jax.runtime.large_pages import start_on_large_pages
start_on_large_pages(Path(sys.argv[1]))
print(os.environ.get("GLIBC_TUNABLES"), sys.flags.utf8_mode, sys.argv[2:])
"""


def run(devices, **environment):
    """Return the process IDs that the program prints at each start, and its last line."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, str(devices), "--a=b c"]
    env = {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    *processes, last = done.stdout.splitlines()
    return processes, last


def test_the_program_starts_again_once_as_it_was_started(tmp_path):
    processes, last = run(tmp_path)
    assert len(processes) == 2
    assert len(set(processes)) == 1  # the same process
    assert last == "glibc.malloc.hugetlb=1 1 ['--a=b c']"


@pytest.mark.parametrize("name", ["accel0", "vfio/0", "nvidia0", "kfd"])
def test_an_accelerator_leaves_it_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    processes, last = run(tmp_path)
    assert len(processes) == 1
    assert last.startswith("None ")


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_environment_has_the_last_word(tmp_path, name):
    value = "2" if name.startswith("MALLOC") else "glibc.malloc.arena_max=2"
    processes, last = run(tmp_path, **{name: value})
    assert len(processes) == 1
    assert "hugetlb" not in last
