"""The cores that this process may use."""

import math
import os
from pathlib import Path

# Batches are large: 1,024 images of 256 px are 200 MB, and each worker has one at hand.
MOST_WORKERS = 16


def available_cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores of this process; fewer than the machine's where `taskset` or a container says so.

    Args:
      groups: root of the control groups, whose limit on CPU time counts as so many cores.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    limit = min(_quota(groups / "cpu.max"), _old_quota(groups / "cpu"))
    return cores if math.isinf(limit) else min(cores, max(1, math.ceil(limit)))


def worker_per_core() -> int:
    """A worker for each of these cores, 1 to `MOST_WORKERS`."""
    return min(available_cores(), MOST_WORKERS)


def _quota(file: Path) -> float:
    """Version 2: `150000 100000` (microseconds in each period) or `max 100000`."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such limit, or "max"
        return math.inf


def _old_quota(folder: Path) -> float:
    """Version 1: -1 for no limit."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else math.inf
    except (OSError, ValueError):
        return math.inf
