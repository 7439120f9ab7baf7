"""Memory of a CPU run: on large pages, and kept from step to step.

XLA's CPU client asks the C library for the buffers of each step and gives them back. By default glibc returns them to
the kernel at once, which then clears every page of them anew: up to a third of the step of a small model. Buffers above
64 MiB still come from the kernel each time; on pages of 2 MiB that takes a sixth of the time.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD = 512 * 2**20
_ACCELERATORS = ("accel*", "vfio/*", "nvidia[0-9]*", "kfd")
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_DEVICES = Path("/dev")
_KERNEL_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _concerns_this_run(devices: Path) -> bool:
    """False with an accelerator, without glibc, and where the environment has settings of its own."""
    own = any(name.startswith("MALLOC_") for name in os.environ)
    own |= os.environ.get(_TUNABLES, _HUGE_PAGES) != _HUGE_PAGES
    accelerator = any(path for pattern in _ACCELERATORS for path in devices.glob(pattern))
    return platform.libc_ver()[0] == "glibc" and not own and not accelerator


def start_on_huge_pages(devices: Path = _DEVICES, kernel: Path = _KERNEL_SETTING) -> None:
    """Starts this program anew, as the same process, with a heap that asks for huge pages; a second call does nothing.

    glibc (2.35 and later) reads this setting when a process starts and takes it from the environment only. To be called
    first of all. Nothing happens where `keep_freed_memory` would do nothing, and where the kernel gives huge pages to
    everyone or to nobody (`kernel`: its file that says so).
    """
    wanted = kernel.is_file() and "[madvise]" in kernel.read_text()
    if wanted and _TUNABLES not in os.environ and _concerns_this_run(devices):
        os.environ[_TUNABLES] = _HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_freed_memory(devices: Path = _DEVICES) -> bool:
    """Lets this process keep the memory that it frees; to be called before JAX starts its threads.

    Nothing changes on machines with an accelerator, where many threads of the input pipeline allocate and few arrays
    are large, without glibc, and where the environment has settings of its own (`MALLOC_…`, `GLIBC_TUNABLES`).

    Args:
      devices: where the devices of the machine are looked for.

    Returns:
      Whether it was done.
    """
    if not _concerns_this_run(devices):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        # Large buffers come from the heaps too. One heap for all threads would be slower: what a compilation leaves
        # behind is thousands of free pieces, through which each allocation of the step and of the pipeline searches.
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: _PAD,
    }
    taken = [mallopt(name, value) for name, value in settings.items()]
    return all(taken)
