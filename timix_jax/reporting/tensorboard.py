"""Scalars as TensorBoard events, written at once and by the caller's thread.

tensorboardX's own `SummaryWriter` hands them to a thread: on a full disk that one dies with a traceback of its own,
and its queue then blocks the caller.
"""

import os
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """A new file of events.

    Args:
      folder: gets the file; local, made where missing.
      first_step: readers forget what earlier files hold of later steps; 0 for a new run.
    """

    def __init__(self, folder: str | os.PathLike[str], *, first_step: int) -> None:
        os.makedirs(folder, exist_ok=True)
        self._events = EventsWriter(os.path.join(folder, "events"))
        if first_step:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(step=first_step + 1, session_log=start))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds scalars under a step; OSError where the file cannot take them."""
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._add(Event(step=step, summary=Summary(value=values)))
        self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
