"""How much memory is free, and refusing early what will not fit."""

import os
from pathlib import Path

from timix_jax.errors import UserError

_MARGIN = 0.9  # the rest of the program needs some too


def available_memory() -> int:
    """Bytes that this process can still get: the machine's free memory or the container's limit."""
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
    """Raises UserError if `num_bytes` are more than nine tenths of the memory that is free.

    Args:
      num_bytes: estimate of what will be held at once.
      what: names the holder and its mend, such as "eval.batch_size: the score block".
    """
    free = available_memory()
    if num_bytes > _MARGIN * free:
        raise UserError(
            f"{what} needs about {num_bytes / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB "
            "are free; evaluate fewer examples or take a machine with more"
        )


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
    except (OSError, ValueError):  # no such limit, or "max"
        return None
