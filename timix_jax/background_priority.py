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


def give_way(niceness: int) -> None:
    """Lowers the scheduling priority of the calling thread, once; Linux only, and never that of the main thread.

    Threads that it starts afterwards inherit it.
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
