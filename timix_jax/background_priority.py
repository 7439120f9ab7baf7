"""Background threads give way to the computation.

On a CPU backend both share the cores, and an operation that is split over all cores is as slow as its slowest part: a
loader thread on one of them stops all. Batches are made ahead of time, and a checkpoint may take a few steps, so both
can wait for the gaps.
"""

import contextlib
import os
import sys
import threading

# Of 0 to 19. A thread at 10 gets a tenth of a core where the others are busy, one at 19 next to nothing; both get all
# of it where the others wait.
LOADER, SAVE = 10, 19
_thread = threading.local()


def give_way(niceness: int, *, only_gaps: bool = False) -> None:
    """Lowers the scheduling priority of the calling thread, once; Linux only, and never that of the main thread.

    Threads that it starts afterwards inherit it.

    Args:
      niceness: 0 to 19, as of ``nice``.
      only_gaps: whether any other thread that can run takes its core at once (``SCHED_IDLE``). A nice one may first use
        up its milliseconds, for which a step on all cores waits. Not for a thread whose work another one needs soon
        while the cores are busy: there it does not come to an end.
    """
    if getattr(_thread, "asked", False):
        return
    _thread.asked = True
    # Elsewhere priorities belong to whole processes.
    if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
        own = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox that forbids it costs speed, nothing else
            behind = max(niceness, os.getpriority(os.PRIO_PROCESS, own))
            os.setpriority(os.PRIO_PROCESS, own, behind)
            if only_gaps:
                os.sched_setscheduler(own, os.SCHED_IDLE, os.sched_param(0))
