"""Asynchronous checkpoints whose integrity is verified before use.

    WORKDIR/checkpoints/00001200/        one step
      _CHECKPOINT_METADATA               Orbax's own; holds our `meta` dict
      state/…                            the arrays, as nested dicts keyed by the names of their leaves
      CHECKSUMS.json                     written last: without it the checkpoint is unfinished

Orbax restores flipped bytes silently and takes an empty folder for the latest step, hence the checksums. A step is
written under a temporary name, renamed, and then hashed, all in the background.

This is the only package that imports Orbax. It may import `distributed`, `runtime` and `errors`.
"""

from timix_jax.checkpointing.checkpointer import Checkpointer
from timix_jax.checkpointing.lookup import find_checkpoint, read_newest, restore_params
from timix_jax.checkpointing.step_reader import check_same_arrays, read_meta, saved_shapes

__all__ = [
    "Checkpointer",
    "check_same_arrays",
    "find_checkpoint",
    "read_meta",
    "read_newest",
    "restore_params",
    "saved_shapes",
]
