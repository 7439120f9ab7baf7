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

# Niceness of 0 to 19. A thread at 10 gets a tenth of a core where the others are busy, one at 19 a sixtieth; both get
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
      niceness: 0 to 19, as of ``nice``.
    """
    if getattr(_thread, "asked", False):
        return
    _thread.asked = True
    if _threads_have_priorities() and threading.current_thread() is not threading.main_thread():
        own = threading.get_native_id()
        _set_niceness(own, max(niceness, _niceness(own)))


def stand_apart() -> int:
    """Puts the calling thread one place back: the threads that it starts inherit that, and are known by it.

    Returns:
      The niceness by which ``all_give_way`` knows them.
    """
    own = threading.get_native_id()
    if not _threads_have_priorities() or threading.current_thread() is threading.main_thread():
        return -1
    apart = _niceness(own) + 1
    apart += apart == LOADER
    _set_niceness(own, apart)
    return apart


def all_give_way(apart: int, niceness: int) -> None:
    """Lowers the priority of all threads that stand apart at ``apart``, of ``stand_apart``."""
    if not 0 <= apart < niceness:
        return
    for name in os.listdir(_TASKS):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if _niceness(int(name)) == apart:
                _set_niceness(int(name), niceness)


def _threads_have_priorities() -> bool:
    return sys.platform == "linux"


def _niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def _set_niceness(thread: int, niceness: int) -> None:
    with contextlib.suppress(OSError):  # a sandbox that forbids it costs speed, nothing else
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
