"""The memory high-water mark: of the devices where they count it, and of this process on the host."""

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
    """The most memory in use at a time since the start of this process, GiB (2³⁰ bytes).

    Args:
        devices: of this process; the fullest of them counts.

    Returns:
        `device_memory_peak_gib`, missing where the backend does not count (CPU);
        `host_memory_peak_gib`, resident memory of this process, which on a CPU holds the arrays.
    """
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    on_device = {DEVICE_MEMORY: max(peaks) / _GIB} if peaks else {}
    return {**on_device, HOST_MEMORY: host_peak_bytes() / _GIB}


def host_peak_bytes() -> int:
    """Largest resident set of this process, bytes."""
    if _STATUS.exists():  # Linux: ru_maxrss would begin with the peak of the parent process
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
