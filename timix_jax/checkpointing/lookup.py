"""Find a checkpoint by its path and read one part of its state."""

from collections.abc import Callable
from typing import Any, TypeVar

from absl import logging
from etils import epath

from timix_jax.checkpointing import checksums, step_folders
from timix_jax.checkpointing.checkpointer import Checkpointer
from timix_jax.checkpointing.step_reader import load, require_valid
from timix_jax.distributed import processes
from timix_jax.errors import RunError, UserError
from timix_jax.runtime.workdir import CHECKPOINTS_FOLDER, absolute

PyTree = Any
T = TypeVar("T")

_ATTEMPTS = 20


def find_checkpoint(path: epath.PathLike) -> epath.Path:
    """Return the newest valid checkpoint of a working folder or checkpoints folder, or the checkpoint given itself.

    Raises:
      UserError: There is no checkpoint, or the given one is damaged.
    """
    path = absolute(path)
    if step_folders.is_step(path.name) or checksums.has_manifest(path):
        require_valid(path)
        return path
    for folder in (path / CHECKPOINTS_FOLDER, path):
        with Checkpointer(folder) as checkpointer:
            step = checkpointer.latest_valid()
        if step is not None:
            return step_folders.step_path(folder, step)
    raise UserError(
        f"{path} holds no complete checkpoint: give a working folder, its {CHECKPOINTS_FOLDER}"
        f" folder, or a step in it such as {CHECKPOINTS_FOLDER}/00001000"
    )


def read_newest(path: epath.PathLike, read: Callable[[epath.Path], T]) -> T:
    """Return `read(found)` of the checkpoint that `find_checkpoint` finds; call it from all processes.

    A training that runs in the folder deletes old checkpoints, possibly while they are read: the newest one is then
    read instead.

    Args:
      path: as in `find_checkpoint`; a step given itself has no successor.
      read: may raise anything if files disappear; its errors about a checkpoint that is still there are reraised.

    Raises:
      UserError: as `find_checkpoint`.
      RunError: checkpoints disappear faster than they can be read, or the given one has.
    """
    for _ in range(_ATTEMPTS):
        found = find_checkpoint(path)
        error: Exception | None = None
        try:
            value = read(found)
        except Exception as raised:
            error = raised
        # The manifest is deleted first, so nothing was missing while it was there.
        if processes.from_first(lambda folder=found: checksums.has_manifest(folder)):  # type: ignore[misc]
            if error is not None:
                raise error
            return value
        if found == absolute(path):
            break
        logging.warning("checkpoint %s was deleted while it was read; reading the newest", found)
    raise RunError(
        f"checkpoint {found} was deleted while it was read: give one that stays, or raise"
        " config.checkpoint.keep_last of the run that writes there"
    )


def restore_params(
    path: epath.PathLike, abstract_params: PyTree | None = None, *, part: str = "params"
) -> PyTree:
    """Read one part of a saved state, such as another run's parameters, and nothing else.

    Args:
      path: A working folder or its checkpoints folder (for its newest valid step), or one step.
      abstract_params: A tree of jax.ShapeDtypeStruct with shardings; None for the parameters as saved, as nested dicts
        of NumPy arrays.
      part: Field of the saved state, such as `ema_params`.

    Raises:
      UserError: There is no valid checkpoint, no such part, or its parameters differ; the message names them.
    """
    return read_newest(path, lambda found: load(found, abstract_params, (part,)))
