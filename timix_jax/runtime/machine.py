"""CPU cores and memory of the machine that this process may use."""

import math
import os
from pathlib import Path

from timix_jax.errors import UserError

_USABLE_SHARE = 0.9  # the rest of the program needs memory too


def available_cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores this process may use; `taskset` or a container can limit them.

    Args:
      groups: root of the control groups; their limit on CPU time is converted to cores.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    limit = min(_quota_v2(groups / "cpu.max"), _quota_v1(groups / "cpu"))
    return cores if math.isinf(limit) else min(cores, max(1, math.ceil(limit)))


def available_memory() -> int:
    """Return the bytes this process can still allocate, within the machine and its container."""
    limits = [_machine_memory()]
    group = Path("/sys/fs/cgroup")
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = _read_number(group / limit_name), _read_number(group / used_name)
        if limit is not None and used is not None:
            limits.append(limit - used)
    return max(0, min(limits))


def check_fits_memory(num_bytes: int, what: str) -> None:
    """Raise UserError if `num_bytes` exceed nine tenths of the free memory.

    Args:
      num_bytes: estimate of the memory needed at once.
      what: names the consumer and its setting, such as "eval.batch_size: the score block".
    """
    free = available_memory()
    if num_bytes > _USABLE_SHARE * free:
        raise UserError(
            f"{what} needs about {num_bytes / 2**30:.1f} GiB of memory, but only {free / 2**30:.1f} GiB "
            "are free; evaluate fewer examples or use a machine with more memory"
        )


def _quota_v2(file: Path) -> float:
    """Read a version 2 limit: `150000 100000` (microseconds per period) or `max 100000`."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no limit set, or "max"
        return math.inf


def _quota_v1(folder: Path) -> float:
    """Read a version 1 limit; -1 means none."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


def _machine_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no limit set, or "max"
        return None
