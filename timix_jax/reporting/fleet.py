"""What the log says of all processes, and not of the one that writes it."""

from collections.abc import Mapping
from typing import NamedTuple

from timix_jax.distributed import processes
from timix_jax.reporting.peak_memory import DEVICE_MEMORY, HOST_MEMORY

SKIPPED, WAIT = "skipped_examples", "data_wait"
_LARGEST = (WAIT, DEVICE_MEMORY, HOST_MEMORY)


class Fleet(NamedTuple):
    """Metrics over all processes, and the one that waited longest for its data; None with a single one."""

    metrics: dict[str, float]
    slowest: int | None


def over_processes(own: Mapping[str, float]) -> Fleet:
    """The sum of the skipped examples, the largest wait for data and the largest memory of all processes.

    To be called by every process at each log step. Nobody is waited for: of the others the values that they gave
    last count, which are those of this log step or of the one before.

    Args:
      own: metrics of this process.

    Returns:
      On the first process `own` with those of all in it; on the others `own` as it is.
    """
    told = {name: own[name] for name in (SKIPPED, *_LARGEST) if name in own}
    everyone = processes.latest("log", told)
    if len(everyone) == 1:
        return Fleet(dict(own), None)
    metrics = dict(own)
    metrics[SKIPPED] = sum(each.get(SKIPPED, 0) for each in everyone.values())
    for name in _LARGEST:
        if name in own:
            metrics[name] = max(each.get(name, 0.0) for each in everyone.values())
    return Fleet(metrics, max(everyone, key=lambda process: everyone[process].get(WAIT, 0.0)))
