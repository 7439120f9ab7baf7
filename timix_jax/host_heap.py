"""Memory of a CPU run that stays with the process from step to step.

XLA's CPU client asks the C library for the buffers of each step and gives them back. By default glibc returns them to
the kernel at once, which then clears every page of them anew: up to a third of the step of a small model.
"""

import ctypes
import os
import platform
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD = 512 * 2**20
_ACCELERATORS = ("accel*", "vfio/*", "nvidia[0-9]*", "kfd")


def keep_freed_memory(devices: Path = Path("/dev")) -> bool:
    """Lets this process keep the memory that it frees; to be called before JAX starts its threads.

    Nothing changes on machines with an accelerator, where many threads of the input pipeline allocate and few arrays
    are large, without glibc, and where the environment has settings of its own (``MALLOC_…``, ``GLIBC_TUNABLES``).

    Args:
      devices: where the devices of the machine are looked for.

    Returns:
      Whether it was done.
    """
    own = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    accelerator = any(path for pattern in _ACCELERATORS for path in devices.glob(pattern))
    if own or accelerator or platform.libc_ver()[0] != "glibc":
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
