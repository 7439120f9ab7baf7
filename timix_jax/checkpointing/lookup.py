"""Find a checkpoint by its path and read one part of its state."""

from typing import Any

from etils import epath

from timix_jax.checkpointing import checksums, step_folders
from timix_jax.checkpointing.checkpointer import Checkpointer
from timix_jax.checkpointing.step_reader import load, require_valid
from timix_jax.errors import UserError
from timix_jax.runtime.workdir import CHECKPOINTS_FOLDER, absolute

PyTree = Any


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
    return load(find_checkpoint(path), abstract_params, (part,))
