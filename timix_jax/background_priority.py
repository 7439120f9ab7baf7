"""Background threads give way to the computation.

On a CPU backend both share the cores, and an operation that is split over all cores is as slow as its slowest part: a
loader thread on one of them stops all. Batches are made ahead of time, and a checkpoint may take a few steps, so both
can wait for the gaps.
"""

import contextlib
import os
import sys
import threading

NICENESS = (
    10  # of 0 to 19; about a tenth of a core where the others are busy, all of it where they wait
)
_thread = threading.local()


def give_way() -> None:
    """Lowers the scheduling priority of the calling thread, once; Linux only, and never that of the main thread."""
    if getattr(_thread, "asked", False):
        return
    _thread.asked = True
    # Elsewhere priorities belong to whole processes.
    if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
        own = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox that forbids it costs speed, nothing else
            behind = max(NICENESS, os.getpriority(os.PRIO_PROCESS, own))
            os.setpriority(os.PRIO_PROCESS, own, behind)
