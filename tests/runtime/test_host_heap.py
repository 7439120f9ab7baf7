"""Memory that a process keeps: large buffers come again without the kernel's clearing of their pages."""

import os
import platform
import subprocess
import sys
from pathlib import Path

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


RESTART = """
import os, sys
from pathlib import Path
from timix_jax.runtime.host_heap import start_on_huge_pages
print(os.getpid(), flush=True)
start_on_huge_pages(*map(Path, sys.argv[1:3]))
print(os.environ.get("GLIBC_TUNABLES"), sys.flags.utf8_mode, sys.argv[3:])
"""


def restart(folder, kernel: str, **environment):
    (folder / "dev").mkdir()
    (folder / "enabled").write_text(kernel)
    command = [sys.executable, "-X", "utf8", "-c", RESTART]
    command += [str(folder / "dev"), str(folder / "enabled"), "--a=b c"]
    env = {**environment_without_settings(), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc's")
def test_the_program_starts_anew_once_as_it_was_started(tmp_path):
    before, after, last = restart(tmp_path, "always [madvise] never")
    assert before == after  # the same process
    assert last == "glibc.malloc.hugetlb=1 1 ['--a=b c']"


@pytest.mark.parametrize(
    ("kernel", "environment"),
    [
        ("[always] madvise never", {}),
        ("always madvise [never]", {}),
        ("always [madvise] never", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}),
        ("always [madvise] never", {"MALLOC_ARENA_MAX": "2"}),
    ],
)
def test_it_goes_on_where_it_would_gain_nothing_or_the_user_chose(tmp_path, kernel, environment):
    _, last = restart(tmp_path, kernel, **environment)
    assert last.startswith(environment.get("GLIBC_TUNABLES", "None"))


KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LARGE = f"""
import ctypes, resource
from timix_jax.runtime.host_heap import start_on_huge_pages
if {{huge}}:
    start_on_huge_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.memset.argtypes = [ctypes.c_size_t], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
libc.memset(libc.malloc({SIZE}), 1, {SIZE})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not (KERNEL.is_file() and "[madvise]" in KERNEL.read_text())
    or any(Path("/dev").glob("nvidia[0-9]*")),
    reason="the kernel does not give huge pages on request, or there is an accelerator",
)
def test_large_buffers_come_in_huge_pages():
    def faults_of(huge):
        command = [sys.executable, "-c", LARGE.format(huge=huge)]
        env = environment_without_settings()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults_of(True) < faults_of(False) / 20
