"""A thread that reports when a run is stuck, and where; it never ends the run."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from absl import logging

from timix_jax.reporting.phases import Phases, Stall

_PACKAGE = Path(__file__).parents[1]


class Watchdog:
    """Warns of a stall once, and again each time its duration has doubled. Use as a context manager.

    Args:
      phases: those of the thread that creates this object.
      every_s: seconds between two checks, which take a few microseconds.
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
        self._reported: Stall | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def check(self) -> None:
        """Look for a stall now."""
        stall, reported = self._phases.stall(), self._reported
        if stall is None:
            if reported is not None:
                self._warn(f"going on, after more than {reported.seconds:.0f} s")
            self._reported = None
        elif reported is None or stall.key != reported.key or stall.seconds >= 2 * reported.seconds:
            self._reported = stall
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
    """Yield phases whose stalls are logged while the context lasts."""
    phases = Phases()
    with Watchdog(phases):
        yield phases


def _place(frame: FrameType | None) -> str:
    """Return where a thread is in this package, ` [data/pipeline.py:61]`; empty if it is elsewhere."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE) and path.name not in ("phases.py", "watchdog.py"):
            return f" [{path.relative_to(_PACKAGE)}:{frame.f_lineno}]"
        frame = frame.f_back
    return ""
