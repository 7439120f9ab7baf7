"""Asynchronous checkpoints that are proven whole before they are used: the only package with Orbax.

    WORKDIR/checkpoints/00001200/        the step
      _CHECKPOINT_METADATA               Orbax's; holds our `meta` dict
      state/…                            the arrays, as nested dicts by the names of their leaves
      CHECKSUMS.json                     written last: without it the checkpoint is unfinished

Orbax restores flipped bytes without a word and takes an empty folder for the latest step, hence
the sums. A step is written beside its final name, renamed, and then summed, all in the background;
where the training step runs on the same cores (one CPU device), with rests between the pieces (`pace`).
"""

from timix_jax.checkpointing.checkpointer import Checkpointer
from timix_jax.checkpointing.lookup import find_checkpoint, restore_params
from timix_jax.checkpointing.step_reader import check_same_arrays, read_meta, saved_shapes

__all__ = [
    "Checkpointer",
    "check_same_arrays",
    "find_checkpoint",
    "read_meta",
    "restore_params",
    "saved_shapes",
]
