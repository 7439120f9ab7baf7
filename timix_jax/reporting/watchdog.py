"""A thread that says when a run stands still, and at what; it ends nothing."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from absl import logging

from timix_jax.reporting.phases import Phases, Stall

_PACKAGE = Path(__file__).parent


class Watchdog:
    """Warns of a stall once, and again each time it has doubled. Use as a context manager.

    Args:
      phases: what is watched; the thread that makes this object is the one that they are of.
      every_s: seconds between two looks, each of a few microseconds.
      warn: takes a line.
    """

    def __init__(
        self,
        phases: Phases,
        *,
        every_s: float = 5.0,
        warn: Callable[[str], None] = logging.warning,
    ) -> None:
        self._phases, self._every_s, self._warn = phases, every_s, warn
        self._watched = threading.get_ident()
        self._told: Stall | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def check(self) -> None:
        """One look."""
        stall, told = self._phases.stall(), self._told
        if stall is None:
            if told is not None:
                self._warn(f"going on, after more than {told.seconds:.0f} s")
            self._told = None
        elif told is None or stall.key != told.key or stall.seconds >= 2 * told.seconds:
            self._told = stall
            self._warn(f"{stall.text}{_place(sys._current_frames().get(self._watched))}")

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            self.check()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()


@contextlib.contextmanager
def watched_phases() -> Iterator[Phases]:
    """Phases whose stalls are logged as long as the context lasts."""
    phases = Phases()
    with Watchdog(phases):
        yield phases


def _place(frame: FrameType | None) -> str:
    """Where a thread is in this package: ` [data/pipeline.py:61]`; empty where it is not in it."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE) and path.name not in ("phases.py", "watchdog.py"):
            return f" [{path.relative_to(_PACKAGE)}:{frame.f_lineno}]"
        frame = frame.f_back
    return ""
