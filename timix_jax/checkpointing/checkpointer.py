"""Saving, and the checkpoints of one run in one folder."""

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
from timix_jax.checkpointing.pace import Pace, copied, in_pieces, shares_the_cores
from timix_jax.checkpointing.step_reader import STATE, load, read_meta, require_whole
from timix_jax.distributed import processes
from timix_jax.errors import RunError, UserError
from timix_jax.runtime.background_priority import SAVE, all_give_way, stand_apart
from timix_jax.runtime.workdir import absolute, free_bytes

PyTree = Any

_SHARE_OF_RESTS = 0.1  # of the time that a save may take
_TELL_S = 10  # for the others to hear that a save has failed


class Checkpointer:
    """The checkpoints of one run in one folder. Use as a context manager, or call `close`.

    All methods are to be called by all processes, from one thread.

    Args:
      directory: the folder, local or `gs://…`; made by the first save.
      keep_last: complete checkpoints to keep; older ones go once a newer one is complete.
      keep_every: steps divisible by it are kept besides; None or 0 for none.
      timeout_s: seconds that the processes wait for one another before a save fails.

    Example:
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
        self._context.asynchronous.timeout_secs = self._timeout_s = timeout_s
        # With folders made in the background, a save that fails at once hangs for minutes.
        self._context.asynchronous.create_directories_asynchronously = False
        # Weights shrink by 8% only, at three times the CPU time, which the steps meanwhile lack.
        self._context.array.saving.use_compression = False
        self._pending: Future[None] | None = None
        self._pending_step = -1
        self._pace: Pace | None = None  # of the running save
        self._state_bytes = 0
        # A save that had to come to its end before the next one: first they no longer rest, then no longer give way.
        self._may_rest = self._may_give_way = True
        self._whole: set[int] = set()  # checked or written by this object
        self._broken: set[int] = set()  # found wanting by this object: deleted by a later save

    def save(
        self, step: int, state: PyTree, meta: dict[str, Any], *, give_way: bool = True
    ) -> None:
        """Starts to save; returns when the arrays are copied, so that `state` may be donated.

        Waits first for the save before, if that still runs; later ones then give way less. A
        step that this object has saved or restored is there already and not saved again. Meta comes
        back as JSON gives it: tuples as lists.

        Args:
          step: the number of the checkpoint.
          state: a tree of jax.Arrays, none of them empty; with several processes all global.
          meta: a dict that JSON can hold (data position, config, tokenizer, …).
          give_way: whether what is left to do stands behind the training that goes on meanwhile, and on one
            CPU device takes three times as long; not for a save that is waited for at once.

        Raises:
          UserError: there is such a checkpoint, or a newer one, of another run.
          RunError: this save cannot start, or the one before failed (the cause is in the message).
        """
        if self.saving:
            self._may_give_way = self._may_give_way and self._pace is not None
            self._may_rest = False
        self.wait()
        if step in self._whole:
            logging.info("checkpoint %d is saved already", step)
            return
        complete = step_folders.complete_steps(self.directory)
        others = [s for s in complete if s >= step and s not in self._broken]
        if others:
            raise UserError(
                f"{self.directory} holds checkpoint {others[-1]} already, while step {step} is to"
                " be saved: resume from it, or choose another --workdir"
            )
        arrays = tree_diff.named_leaves(state)
        tree_diff.check_savable(arrays)
        self._state_bytes = sum(leaf.nbytes for leaf in arrays.values())
        meta = json.loads(json.dumps(meta))
        give_way = give_way and self._may_give_way
        rests = give_way and self._may_rest and shares_the_cores(arrays.values())
        self._pace = Pace(_SHARE_OF_RESTS * self._timeout_s) if rests else None
        # A thread of its own for each: one that has given way cannot come back.
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        try:
            apart = thread.submit(stand_apart).result()  # Orbax's threads inherit it
            response = thread.submit(self._start, step, tree_diff.nested(arrays), meta).result()
            if give_way:
                all_give_way(apart, SAVE)
            self._pending_step = step
            self._pending = thread.submit(self._finish, step, response)
        except Exception as error:
            raise self._failure(step, error) from error
        finally:
            thread.shutdown(wait=False)  # once it has done its work

    @property
    def saving(self) -> bool:
        """Whether a save is being written in the background; no word on whether it succeeds."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Waits until the running save is complete; RunError with the cause where it failed.

        A process whose part has failed does not wait long for the others to hear of it: they may stand in Orbax's
        barrier, for as long as that takes, and are ended by `failure_watch`.
        """
        if self._pending is None:
            return
        self._hurry()
        step, error = self._pending_step, self._pending.exception()
        self._pending = None
        # All processes must agree, or one would go on and wait for the others for ever.
        if error is not None:
            with contextlib.suppress(RunError):
                processes.gather_flags(True, timeout_s=_TELL_S)
            raise self._failure(step, error) from error
        failed = processes.gather_flags(False)
        if any(failed):
            raise RunError(
                f"checkpoint {step} could not be saved to {self._path(step)}: the log of process"
                f" {failed.index(True)} names the cause"
            )
        self._whole.add(step)

    def close(self) -> None:
        """Waits like `wait`."""
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
        """After an error the others may never come to say how their part of the running save went."""
        if self._pending is not None:
            logging.warning(
                "stopping (%s: %s) once checkpoint %d is written",
                *(type(cause).__name__, str(cause)[:300], self._pending_step),
            )
            self._hurry()
            self._pending.exception()  # in the log already
            self._pending = None

    def _hurry(self) -> None:
        if self._pace is not None:
            self._pace.hurry()

    def latest_valid(self) -> int | None:
        """The newest step whose files all have the sums that they were saved with.

        Each newer one that is truncated, empty, damaged or unfinished is named in a warning.

        Returns:
          The step; None where no save was ever completed.

        Raises:
          UserError: there are completed checkpoints, and all of them are damaged.
        """
        self.wait()
        latest = step_folders.Latest(
            *processes.from_first(lambda: step_folders.find_latest(self.directory))
        )
        self._broken.update(latest.broken)
        if latest.step is not None:
            self._whole.add(latest.step)
        elif latest.damaged:
            raise UserError(
                f"all checkpoints in {self.directory} are damaged ({latest.damaged}): put back a"
                " copy, or choose another --workdir to start anew"
            )
        return latest.step

    def restore(self, step: int, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Reads the state onto the devices, and its meta.

        Args:
          step: as given by `latest_valid`; of any other the sums are checked first.
          abstract_state: a tree of jax.ShapeDtypeStruct with shardings; these may differ from
            those of the saved arrays, in the number of devices and processes as well.

        Raises:
          UserError: no such checkpoint, a damaged one, or one of another model; the message
            names the parameters that differ.
        """
        path = self._path(step)
        if step not in self._whole or not checksums.has_manifest(path):
            require_whole(path)
            self._whole.add(step)
        return load(path, abstract_state, ()), read_meta(path)

    def read_meta(self, step: int) -> dict[str, Any]:
        """The `meta` of a step."""
        return read_meta(self._path(step))

    def _path(self, step: int) -> epath.Path:
        return step_folders.step_path(self.directory, step)

    def _start(self, step: int, state: PyTree, meta: dict[str, Any]) -> ocp.AsyncResponse[None]:
        """On the save's thread; `save` waits for it."""
        context = self._context
        if self._pace is not None:
            state, context = copied(state), in_pieces(context, self._pace)
        with context:
            return ocp.save_checkpointables_async(
                self._path(step),
                {STATE: state},
                overwrite=True,  # of a broken one; a whole one was refused by `save`
                custom_metadata=meta,
            )

    def _finish(self, step: int, response: ocp.AsyncResponse[None]) -> None:
        """In the background: waits for Orbax, writes the sums, deletes what is not kept."""
        try:
            response.result()
            if processes.is_first():
                rest = None if self._pace is None else self._pace.rest
                checksums.write_manifest(self._path(step), rest)
                logging.info("checkpoint %d is complete in %s", step, self.directory)
        except Exception:
            logging.exception("checkpoint %d could not be saved to %s", step, self._path(step))
            self._tidy(step_folders.delete_unfinished)  # its rest may fill the disk
            raise
        self._broken.discard(step)
        self._tidy(
            functools.partial(
                step_folders.delete_old,
                keep_last=self._keep_last,
                keep_every=self._keep_every,
                broken=self._broken,
            )
        )

    def _tidy(self, delete: Callable[[epath.Path], None]) -> None:
        """Deletes on the first process; a failure costs space only, so it is logged."""
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
            f" {self._state_bytes:,} bytes{space}); free space or mend what it says, or choose"
            " another --workdir"
        )
