"""Save and restore the checkpoints of one run in one folder."""

import contextlib
import functools
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from timix_jax.checkpointing import checksums, step_folders, tree_diff
from timix_jax.checkpointing.step_reader import STATE, load, read_meta, require_valid
from timix_jax.distributed import processes
from timix_jax.errors import RunError, UserError
from timix_jax.runtime.workdir import absolute, free_bytes

PyTree = Any

_SHARED_LEAF_BYTES = 4 << 20  # leaves from this size on are written by all devices that hold them
_ANNOUNCE_S = 10  # for the other processes to learn that a save has failed


class Checkpointer:
    """The checkpoints of one run in one folder. Use as a context manager, or call `close`.

    Call all methods from all processes, each from one thread.

    Args:
      directory: The folder, local or `gs://…`; created by the first save.
      keep_last: Number of complete checkpoints to keep; older ones are deleted once a newer one is complete.
      keep_every: Steps divisible by it are kept as well; None or 0 for none.
      timeout_s: Seconds that the processes wait for one another before a save fails.

    **Example:**

      with Checkpointer(workdir / "checkpoints") as checkpointer:
          step = checkpointer.latest_valid()
          if step is not None:
              state, meta = checkpointer.restore(step, abstract_state)
          ...
          checkpointer.save(100, state, {"config": config, "tokenizer": tokenizer.to_json()})
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        timeout_s: int = 600,
    ):
        if keep_last < 1:
            raise UserError(f"keep_last={keep_last}: keep at least 1 checkpoint")
        if keep_every is not None and keep_every < 0:
            raise UserError(f"keep_every={keep_every}: give a number of steps, or 0 for none")
        self.directory = absolute(directory)
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._context = ocp.Context()
        self._context.asynchronous.timeout_secs = timeout_s
        # If Orbax creates directories in the background, a save that fails at once hangs for minutes.
        self._context.asynchronous.create_directories_asynchronously = False
        # Compression shrinks weights by only 8% and takes three times the CPU time, which training needs.
        self._context.array.saving.use_compression = False
        # To share the writing of a replicated leaf, each device compiles and runs a program that cuts out its part.
        self._context.array.saving.min_slice_bytes_for_replica_parallel = _SHARED_LEAF_BYTES
        self._pending: Future[None] | None = None
        self._pending_step = -1
        self._state_bytes = 0
        self._valid: set[int] = set()  # verified or written by this object
        self._broken: set[int] = set()  # found damaged by this object; a later save deletes them

    def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
        """Start to save and return once the arrays are copied, so that `state` may be donated.

        Waits for the previous save first if that is still running. A step that this object has saved or restored
        is not saved again. Meta comes back as JSON gives it: tuples as lists.

        Args:
          step: Number of the checkpoint.
          state: A tree of jax.Arrays, none of them empty; with several processes all are global arrays.
          meta: A dict that JSON can hold (data position, config, tokenizer, …).

        Raises:
          UserError: The folder holds this checkpoint, or a newer one, of another run.
          RunError: This save cannot start, or the previous one failed (the message has the cause).
        """
        self.wait()
        if step in self._valid:
            logging.info("checkpoint %d is already saved", step)
            return
        complete = step_folders.complete_steps(self.directory)
        others = [s for s in complete if s >= step and s not in self._broken]
        if others:
            raise UserError(
                f"{self.directory} already holds checkpoint {others[-1]}, while step {step} is"
                " being saved: resume from it, or choose another --workdir"
            )
        arrays = tree_diff.named_leaves(state)
        tree_diff.check_savable(arrays)
        self._state_bytes = sum(leaf.nbytes for leaf in arrays.values())
        meta = json.loads(json.dumps(meta))
        try:
            with self._context:
                response = ocp.save_checkpointables_async(
                    self._path(step),
                    {STATE: tree_diff.nested(arrays)},
                    overwrite=True,  # a broken checkpoint; a complete one was refused above
                    custom_metadata=meta,
                )
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending_step = step
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = thread.submit(self._finish, step, response)
        thread.shutdown(wait=False)

    @property
    def saving(self) -> bool:
        """True while a save is being written in the background."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Wait until the running save is complete; raise a RunError with the cause if it failed.

        A process whose part has failed waits only briefly for the others to learn of it: they may be blocked in
        Orbax's barrier, and `failure_watch` ends them.
        """
        if self._pending is None:
            return
        step, error = self._pending_step, self._pending.exception()
        self._pending = None
        # All processes must agree, or one would continue and wait for the others forever.
        if error is not None:
            with contextlib.suppress(RunError):
                processes.gather_flags(True, timeout_s=_ANNOUNCE_S)
            raise self._failure(step, error) from error
        failed = processes.gather_flags(False)
        if any(failed):
            raise RunError(
                f"checkpoint {step} could not be saved to {self._path(step)}: the log of process"
                f" {failed.index(True)} names the cause"
            )
        self._valid.add(step)

    def close(self) -> None:
        """Wait for the running save, as `wait` does."""
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abandon(error)

    def _abandon(self, cause: BaseException) -> None:
        """Finish the running save after an error, without asking the others, which may never answer."""
        if self._pending is not None:
            logging.warning(
                "stopping (%s: %s) once checkpoint %d is written",
                *(type(cause).__name__, str(cause)[:300], self._pending_step),
            )
            self._pending.exception()  # already logged
            self._pending = None

    def latest_valid(self) -> int | None:
        """Return the newest step whose files all match their checksums, or None if no save was ever completed.

        A warning names each newer step that is truncated, empty, damaged or unfinished.

        Raises:
          UserError: There are complete checkpoints, and all of them are damaged.
        """
        self.wait()
        latest = step_folders.Latest(
            *processes.from_first(lambda: step_folders.find_latest(self.directory))
        )
        self._broken.update(latest.broken)
        if latest.step is not None:
            self._valid.add(latest.step)
        elif latest.damaged:
            raise UserError(
                f"all checkpoints in {self.directory} are damaged ({latest.damaged}): restore"
                " them from a copy, or choose another --workdir to start again"
            )
        return latest.step

    def restore(
        self,
        step: int,
        abstract_state: PyTree,
        *,
        unused: Callable[[tree_diff.Name], bool] = lambda name: False,
    ) -> tuple[PyTree, dict[str, Any]]:
        """Read the state onto the devices, and its meta.

        Args:
          step: A step returned by `latest_valid`; the checksums of any other step are verified first.
          abstract_state: A tree of jax.ShapeDtypeStruct with shardings, which may differ from those of the saved
            arrays, also in the number of devices and processes.
          unused: True for the name of a saved array that the state may lack.

        Raises:
          UserError: The checkpoint is missing, damaged, or from another model; the message names the parameters that
            differ.
        """
        path = self._path(step)
        if step not in self._valid or not checksums.has_manifest(path):
            require_valid(path)
            self._valid.add(step)
        return load(path, abstract_state, (), unused=unused), read_meta(path)

    def read_meta(self, step: int) -> dict[str, Any]:
        """Return the `meta` of a step."""
        return read_meta(self._path(step))

    def _path(self, step: int) -> epath.Path:
        return step_folders.step_path(self.directory, step)

    def _finish(self, step: int, response: ocp.AsyncResponse[None]) -> None:
        """Wait for Orbax, write the checksums and delete old checkpoints; runs in the background."""
        try:
            response.result()
            if processes.is_first():
                checksums.write_manifest(self._path(step))
                logging.info("checkpoint %d is complete in %s", step, self.directory)
        except Exception:
            logging.exception("checkpoint %d could not be saved to %s", step, self._path(step))
            self._delete(step_folders.delete_unfinished)  # the remains may fill the disk
            raise
        self._broken.discard(step)
        self._delete(
            functools.partial(
                step_folders.delete_old,
                keep_last=self._keep_last,
                keep_every=self._keep_every,
                broken=self._broken,
            )
        )

    def _delete(self, delete: Callable[[epath.Path], None]) -> None:
        """Delete on the first process; a failure costs only space, so it is logged."""
        if not processes.is_first():
            return
        try:
            delete(self.directory)
        except OSError:
            logging.exception("old checkpoints in %s could not be deleted", self.directory)

    def _failure(self, step: int, error: BaseException) -> RunError:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        free = free_bytes(self.directory)
        space = "" if free is None else f", {free:,} bytes are free there"
        return RunError(
            f"checkpoint {step} could not be saved to {self._path(step)}: {cause} (the state takes"
            f" {self._state_bytes:,} bytes{space}); free space, fix the cause, or choose"
            " another --workdir"
        )
