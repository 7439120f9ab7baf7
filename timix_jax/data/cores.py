"""The cores that this process may use."""

import os

# Batches are large: 1,024 images of 256 px are 200 MB, and each worker has one at hand.
MOST_WORKERS = 16


def available_cores() -> int:
    """Cores of this process; fewer than the machine's where a scheduler or ``taskset`` says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_per_core() -> int:
    """A worker for each of these cores, 1 to ``MOST_WORKERS``."""
    return min(available_cores(), MOST_WORKERS)
