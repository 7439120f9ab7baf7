"""The persistent compilation cache: where it may be used, and whether what is compiled comes from it."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

_PREFIX = "/jax/compilation_cache/"
_ASKED, _FOUND, _STORED = "compile_requests_use_cache", "cache_hits", "cache_misses"


def use_cache(folder: str) -> None:
    """Keeps compiled programs in `folder` (`~` is the home folder); not with several processes on CPUs.

    There JAX's keys differ from process to process and only the first one stores: it would run a stored program with
    the others' fresh ones, whose collectives come in another order. Gloo then ends them, or mixes up their data.
    """
    folder = str(epath.Path(folder).expanduser())
    if folder.startswith("~"):
        logging.warning(
            "no compile cache: there is no home folder for %s; see --compile_cache", folder
        )
        return
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.config.update("jax_compilation_cache_dir", None)  # it may be set by a variable, too
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class CacheUse:
    """What the cache was asked for while `cache_use` lasted."""

    def __init__(self) -> None:
        self._used = bool(jax.config.values["jax_compilation_cache_dir"])
        self._events: Counter[str] = Counter()

    def count(self, event: str, **_: Any) -> None:
        """A listener of `jax.monitoring`."""
        if event.startswith(_PREFIX):
            self._events[event.removeprefix(_PREFIX)] += 1

    def __str__(self) -> str:
        """`compile cache: hit`, `miss, stored for later runs`, `miss`, or `none` without a cache.

        Programs that compile too fast to be worth a place are asked for and never stored: they
        don't make a hit a miss.
        """
        if not self._used:
            answer = "none"
        elif self._events[_STORED]:
            answer = "miss, stored for later runs"
        elif self._events[_FOUND]:
            answer = "hit"
        else:
            answer = "miss" if self._events[_ASKED] else "nothing compiled"
        return f"compile cache: {answer}"


@contextlib.contextmanager
def cache_use() -> Iterator[CacheUse]:
    """Counts what is compiled within."""
    use = CacheUse()
    jax.monitoring.register_event_listener(use.count)
    try:
        yield use
    finally:
        jax.monitoring.unregister_event_listener(use.count)
