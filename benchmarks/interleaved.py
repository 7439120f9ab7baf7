"""Interleaved timing of several cases in one process, so that slow moments of the machine affect all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def interleaved_seconds(
    cases: Mapping[str, Callable[[], object]], *, repeats: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Run every case once untimed (compilation, caches), then alternate between them `repeats` times.

    Args:
      cases: name → what is measured; it returns when its work is done.
      repeats: measurements a case.
      clock: seconds; one of `CLOCKS`.

    Returns:
      name → seconds of each repetition; position i of all lists belongs together.
    """
    for run in cases.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats):
        # Every other round is reversed, so that no case always follows the same one.
        for name in cases if repeat % 2 == 0 else reversed(list(cases)):
            start = clock()
            cases[name]()
            seconds[name].append(clock() - start)
    return seconds


def median_ratio(seconds: Mapping[str, list[float]], case: str, base: str) -> float:
    """Return the median over repetitions of time of `case` / time of `base` in the same repetition."""
    pairs = zip(seconds[case], seconds[base], strict=True)
    return statistics.median(one / other for one, other in pairs)
