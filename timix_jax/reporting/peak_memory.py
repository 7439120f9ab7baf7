"""Peak memory: of the devices, where the backend counts it, and of this process on the host."""

import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import jax

DEVICE_MEMORY = "device_memory_peak_gib"
HOST_MEMORY = "host_memory_peak_gib"

_GIB = 2**30
_STATUS = Path("/proc/self/status")


def peak_memory(devices: Iterable[jax.Device]) -> dict[str, float]:
    """Return the most memory in use at any time since this process started, in GiB (2³⁰ bytes).

    Args:
      devices: those of this process; the fullest one counts.

    Returns:
      `device_memory_peak_gib`, missing if the backend does not count (CPU);
      `host_memory_peak_gib`, the resident memory of this process, which holds the arrays on a CPU.
    """
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    on_device = {DEVICE_MEMORY: max(peaks) / _GIB} if peaks else {}
    return {**on_device, HOST_MEMORY: host_peak_bytes() / _GIB}


def host_peak_bytes() -> int:
    """Return the largest resident set of this process, in bytes."""
    if _STATUS.exists():  # Linux, where ru_maxrss starts at the parent process's peak
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
