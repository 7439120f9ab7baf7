"""The endless iterator over training batches."""

from collections.abc import Iterator
from typing import Any

import grain
from absl import logging

from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.data.loading.loader_processes import LoaderProcesses
from timix_jax.data.loading.reader_threads import first_line
from timix_jax.errors import RunError, UserError

Batch = dict[str, Any]


class TrainIterator:
    """Endless training batches; element s belongs to step s. Close it when done."""

    def __init__(
        self,
        iterator: grain.DatasetIterator,
        corrupt: CorruptExamples,
        processes: LoaderProcesses | None = None,
    ):
        self._iterator = iterator
        self._corrupt = corrupt
        self._processes = processes

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return next(self._iterator)
        except UserError as error:
            raise type(error)(first_line(error)) from error
        except Exception as error:
            step = self.state["next_index"] + 1  # numbered as in metrics.jsonl
            logging.exception("the input pipeline stopped at the batch of step %d", step)
            raise RunError(
                f"the input pipeline stopped at the batch of step {step}: {type(error).__name__}:"
                f" {first_line(error)} (traceback in the log); fix it, and the same command resumes"
            ) from error

    def seek(self, step: int) -> None:
        """Continue with the batch of `step`."""
        self._iterator.set_state({"next_index": step})

    @property
    def state(self) -> dict[str, int]:
        """{"next_index": step of the next batch}; valid on any number of processes."""
        return self._iterator.get_state()

    @property
    def skipped(self) -> int:
        """Number of distinct corrupt examples this process replaced, prefetched batches included."""
        return sum(self._corrupt.counts.values())

    def close(self) -> None:
        """Stop the threads and processes."""
        if self._processes is not None:
            self._processes.close()
        self._iterator.close()
