"""Keep the memory that a run on CPUs frees.

XLA's CPU client allocates the buffers of each step from the C library and frees them again. By default glibc returns
them to the kernel, which must clear every page for the next step.
"""

import ctypes
import os
import platform
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h
_ACCELERATORS = ("accel*", "vfio/*", "nvidia[0-9]*", "kfd")


def keep_freed_memory(devices: Path = Path("/dev")) -> bool:
    """Let this process keep the memory that it frees, and return True if that is possible.

    Call it before JAX starts its threads. Nothing changes without glibc, if the environment sets `MALLOC_…` or
    `GLIBC_TUNABLES`, or with an accelerator, where the input pipeline allocates most.
    """
    configured = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    accelerator = any(path for pattern in _ACCELERATORS for path in devices.glob(pattern))
    if configured or accelerator or platform.libc_ver()[0] != "glibc":
        return False
    # Large buffers come from the heaps too. One heap per thread stays: allocations from a single one are slower.
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 512 * 2**20}
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) for name, value in settings.items())
