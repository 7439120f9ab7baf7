"""Checkpoints named by a path: the newest of a working folder, or one part of another run's state."""

from typing import Any

from etils import epath

from timix_jax.checkpointing import checksums, step_folders
from timix_jax.checkpointing.checkpointer import Checkpointer
from timix_jax.checkpointing.step_reader import load, require_whole
from timix_jax.errors import UserError
from timix_jax.runtime.workdir import CHECKPOINTS_FOLDER, absolute

PyTree = Any


def find_checkpoint(path: epath.PathLike) -> epath.Path:
    """The newest valid checkpoint of a working folder or of its checkpoints folder, or itself.

    Raises:
      UserError: there is none, or the given one is damaged.
    """
    path = absolute(path)
    if step_folders.is_step(path.name) or checksums.has_manifest(path):
        require_whole(path)
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


def restore_params(
    path: epath.PathLike, abstract_params: PyTree | None = None, *, part: str = "params"
) -> PyTree:
    """Reads one part of a state, such as another run's parameters; the rest is not read.

    Args:
      path: a working folder or its checkpoints folder (the newest valid one), or a step in it.
      abstract_params: a tree of jax.ShapeDtypeStruct with shardings; None for the parameters as
        they were saved, as nested dicts of NumPy arrays.
      part: the field of the saved state, such as `ema_params`.

    Raises:
      UserError: no valid checkpoint, no such part, or other parameters; the message names them.
    """
    return load(find_checkpoint(path), abstract_params, (part,))
