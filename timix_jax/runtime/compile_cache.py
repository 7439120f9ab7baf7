"""Set up JAX's persistent compilation cache, and report whether programs come from it."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

_PREFIX = "/jax/compilation_cache/"
_REQUESTED, _FOUND, _STORED = "compile_requests_use_cache", "cache_hits", "cache_misses"


def use_cache(folder: str) -> None:
    """Keep compiled programs in `folder` (`~` is the home folder), except with several processes on CPUs.

    On CPUs JAX's keys differ between processes and only the first process stores programs. It would then run a stored
    program together with the others' freshly compiled ones, whose collectives are ordered differently: Gloo aborts
    them, or mixes up their data.
    """
    folder = str(epath.Path(folder).expanduser())
    if folder.startswith("~"):
        logging.warning(
            "no compile cache: %s needs a home folder, which is missing; set --compile_cache",
            folder,
        )
        return
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.config.update(
            "jax_compilation_cache_dir", None
        )  # an environment variable may have set it
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class CacheUse:
    """Counts the requests to the cache within `cache_use`."""

    def __init__(self) -> None:
        self._used = bool(jax.config.values["jax_compilation_cache_dir"])
        self._events: Counter[str] = Counter()

    def count(self, event: str, **_: Any) -> None:
        """Count an event of `jax.monitoring`."""
        if event.startswith(_PREFIX):
            self._events[event.removeprefix(_PREFIX)] += 1

    def __str__(self) -> str:
        """Return `compile cache: hit`, `miss, stored for later runs`, `miss`, or `none` without a cache.

        Programs that compile too fast to be worth storing are looked up but never stored; they do not turn a hit into
        a miss.
        """
        if not self._used:
            answer = "none"
        elif self._events[_STORED]:
            answer = "miss, stored for later runs"
        elif self._events[_FOUND]:
            answer = "hit"
        else:
            answer = "miss" if self._events[_REQUESTED] else "nothing compiled"
        return f"compile cache: {answer}"


@contextlib.contextmanager
def cache_use() -> Iterator[CacheUse]:
    """Count the programs compiled within the context, and how many come from the cache."""
    use = CacheUse()
    jax.monitoring.register_event_listener(use.count)
    try:
        yield use
    finally:
        jax.monitoring.unregister_event_listener(use.count)
