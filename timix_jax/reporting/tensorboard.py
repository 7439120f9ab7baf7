"""TensorBoard events, written immediately and on the caller's thread.

tensorboardX's own `SummaryWriter` writes on a thread: on a full disk that thread dies with its own traceback, and its
queue then blocks the caller.
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
      folder: gets the file; local, created if missing.
      first_step: readers drop what earlier files hold about later steps; 0 for a new run.
    """

    def __init__(self, folder: str | os.PathLike[str], *, first_step: int) -> None:
        os.makedirs(folder, exist_ok=True)
        self._events = EventsWriter(os.path.join(folder, "events"))
        if first_step:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(step=first_step + 1, session_log=start))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add scalars under a step.

        Raises:
          OSError: the file cannot be written.
        """
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._add(Event(step=step, summary=Summary(value=values)))
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
