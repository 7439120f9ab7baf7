"""Large pages for the memory of a run on CPUs.

XLA's CPU client allocates the buffers of each step from the C library and frees them again, and the kernel clears every
page for the next step. With pages of 2 MiB that takes a sixth of the time: the demo trains a quarter faster.
"""

import os
import platform
import sys
from pathlib import Path

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_ACCELERATORS = ("accel*", "vfio/*", "nvidia[0-9]*", "kfd")


def start_on_large_pages(devices: Path = Path("/dev")) -> None:
    """Start this program again, as the same process: glibc reads its setting from the environment, once, at the start.

    Call it first of all. Nothing happens without glibc, with an accelerator, or if the environment has settings for
    glibc's memory.
    """
    chosen = any(name.startswith(("MALLOC_", _VARIABLE)) for name in os.environ)
    accelerator = any(path for pattern in _ACCELERATORS for path in devices.glob(pattern))
    if not chosen and not accelerator and platform.libc_ver()[0] == "glibc":
        os.environ[_VARIABLE] = _SETTING
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
