"""Batches made by processes, so that the Python work on each image uses all cores.

Threads share one interpreter, which limits them to a few thousand images per second. A process
makes whole batches, selected by index exactly as a thread would, so batches, positions and resuming
stay the same.

Run as `python -m timix_jax.data.loading.loader_processes`, this module is the worker: it reads from standard input
the pickled `(batches, corrupt)`, then one index after another.
"""

import contextlib
import pickle
import queue
import struct
import sys
import threading
import traceback
from typing import Any, BinaryIO

import cloudpickle
import cv2
import grain
import numpy as np
from absl import flags, logging

from timix_jax.data.loading import worker_process
from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.errors import RunError, UserError
from timix_jax.runtime.machine import available_cores

_CLOSE_S = 5.0
# Each process holds a whole batch: 200 MB at 1,024 images of 256 px.
_MAX_PROCESSES = 16


def default_process_count() -> int:
    """Return one process per core that this process may use, 1 to 16."""
    return min(available_cores(), _MAX_PROCESSES)


class LoaderProcesses:
    """Worker processes that make the elements of a data set. Close them when done.

    They start when the first element is requested.

    Args:
      batches: the data set; each process gets a copy of it with all its sources.
      corrupt: collects the corrupt examples that the workers find; used by `batches` too.
      count: number of processes.

    Raises:
      UserError: the data set cannot be pickled.
    """

    def __init__(self, batches: grain.MapDataset, corrupt: CorruptExamples, count: int):
        try:
            self._payload = cloudpickle.dumps((batches, corrupt), protocol=5)
        except Exception as error:  # whatever the objects inside raise
            raise UserError(
                f"processes={count}: a data source cannot be sent to another process ({error}); give its class"
                " a __reduce__ that opens it again, or use threads (processes=0)"
            ) from error
        self._corrupt = corrupt
        self._count = count
        self._closed = False
        self._starting = threading.Lock()
        self._free: queue.SimpleQueue[worker_process.Process] = queue.SimpleQueue()
        self._processes: list[worker_process.Process] = []

    def make(self, index: int) -> Any:
        """Return element `index`, made by the next free process; threads may call this concurrently.

        Raises:
          UserError: as raised in the worker; its other errors are reraised too, with the worker's
            traceback as a note.
          RunError: the worker died.
        """
        self._start()
        process = self._free.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(struct.pack("<Q", index))
            process.stdin.flush()
            result, corrupt = _receive(process.stdout)
        except (EOFError, OSError, ValueError) as error:
            end = "was closed" if self._closed else worker_process.describe_exit(process)
            raise RunError(
                f"a process of the input pipeline {end}; if memory is short, lower config.data.processes"
                " (0: threads); the same command resumes"
            ) from error
        finally:
            self._free.put(process)
        for example in corrupt:
            self._corrupt.add(*example)
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Stop the processes and discard their unfinished work."""
        with self._starting:
            self._closed = True
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(_CLOSE_S)

    def _start(self) -> None:
        with self._starting:
            if self._processes:
                return
            if self._closed:
                raise RunError("the processes of the input pipeline were closed")
            self._processes = [worker_process.start(__spec__.name) for _ in range(self._count)]
            for process in self._processes:
                # In a thread, because writing a large payload blocks until the process reads it.
                threading.Thread(target=self._feed, args=(process,), daemon=True).start()

    def _feed(self, process: worker_process.Process) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(struct.pack("<Q", len(self._payload)))
            process.stdin.write(self._payload)
        except (OSError, ValueError):
            logging.debug("a loader process died early; `make` reports it")
        self._free.put(process)


class MadeByProcesses(grain.MapDataset):
    """The elements of `parent`, each made by a worker process."""

    def __init__(self, parent: grain.MapDataset, processes: LoaderProcesses):
        super().__init__(parent)
        self._processes = processes

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._processes.make(index)


def _send(stream: BinaryIO, value: Any) -> None:
    """Write a pickle, followed by its arrays as raw memory."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts: list[Any] = [head, *(buffer.raw() for buffer in buffers)]
    sizes = [len(part) for part in parts]
    stream.write(struct.pack(f"<{1 + len(sizes)}Q", len(sizes), *sizes))
    for part in parts:
        stream.write(part)
    stream.flush()


def _receive(stream: Any) -> Any:
    """Read a value written by `_send`. Raises EOFError at the end of the stream."""
    (count,) = struct.unpack("<Q", _read(stream, 8))
    sizes = struct.unpack(f"<{count}Q", _read(stream, 8 * count))
    head, *buffers = (_read(stream, size) for size in sizes)
    return pickle.loads(head, buffers=buffers)


def _read(stream: Any, size: int) -> memoryview:
    array: Any = np.empty(size, np.uint8)  # a bytearray would be zeroed first
    data = memoryview(array)
    if stream.readinto(data) < size:
        raise EOFError
    return data


def _work() -> None:
    worker_process.ignore_termination_signals()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags
    cv2.setNumThreads(1)
    # The parent logs corrupt examples, since it counts those of all workers.
    logging.set_verbosity(logging.ERROR)
    requests = sys.stdin.buffer
    # BrokenPipeError: the caller was killed, so there is nobody to report to.
    with contextlib.suppress(BrokenPipeError), worker_process.results_stream() as out:
        try:
            payload = _read(requests, struct.unpack("<Q", _read(requests, 8))[0])
        except EOFError:
            return  # likewise, before it had sent the data set
        batches, corrupt = pickle.loads(payload)
        while len(request := requests.read(8)) == 8:
            try:
                result = batches[struct.unpack("<Q", request)[0]]
            except UserError as error:
                result = error
            except Exception as error:
                error.add_note(f"in a loader process:\n{traceback.format_exc()}")
                result = error
            _send(out, (result, corrupt.take_new()))


if __name__ == "__main__":
    _work()
