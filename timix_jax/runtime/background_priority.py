"""Background threads give way to the computation.

On a CPU backend both share the cores, and an operation that is split over all cores is as slow as its slowest part: a
loader thread on one of them stops all. Batches are made ahead of time, and a checkpoint may take a few steps, so both
can wait. Nobody must wait for them, though: where other programs keep the cores busy, a thread far behind hardly runs.
Beside an accelerator, whose host has cores to spare, the loader stands where every program stands.

All of it is Linux only, where threads have priorities of their own; elsewhere nothing is changed.
"""

import contextlib
import os
import sys
import threading
from pathlib import Path

# Niceness of 0 to 19. A thread at 10 gets a tenth of a core where the others are busy, one at 19 a seventieth; both get
# all of it where the others wait.
LOADER, SAVE = 10, 19
_TASKS = Path("/proc/self/task")
_thread = threading.local()


def loader_niceness(platform: str) -> int:
    """Of what makes the batches for devices of this platform, as JAX calls it."""
    return LOADER if platform == "cpu" else 0


def give_way(niceness: int) -> None:
    """Lowers the scheduling priority of the calling thread, once, and never that of the main thread.

    Threads that it starts afterwards inherit it.

    Args:
      niceness: 0 to 19, as of `nice`.
    """
    if getattr(_thread, "asked", False):
        return
    _thread.asked = True
    if _may_be_lowered():
        own = threading.get_native_id()
        with _where_allowed():
            _set_niceness(own, max(niceness, _niceness(own)))


def stand_apart() -> int:
    """Puts the calling thread one place back: the threads that it starts inherit that, and are known by it.

    Returns:
      The niceness by which `all_give_way` knows them; -1 where it cannot.
    """
    if _may_be_lowered():
        own = threading.get_native_id()
        with _where_allowed():
            apart = _niceness(own) + 1
            apart += apart == LOADER
            _set_niceness(own, apart)
            return apart
    return -1


def all_give_way(apart: int, niceness: int) -> None:
    """Lowers the priority of all threads that stand apart at `apart`, of `stand_apart`."""
    if not 0 <= apart < niceness:
        return
    with _where_allowed():
        for name in os.listdir(_TASKS):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                if _niceness(int(name)) == apart:
                    _set_niceness(int(name), niceness)


def _may_be_lowered() -> bool:
    return sys.platform == "linux" and threading.current_thread() is not threading.main_thread()


def _where_allowed() -> contextlib.suppress:
    """A sandbox that forbids it costs speed, nothing else."""
    return contextlib.suppress(OSError)


def _niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def _set_niceness(thread: int, niceness: int) -> None:
    os.setpriority(os.PRIO_PROCESS, thread, niceness)
