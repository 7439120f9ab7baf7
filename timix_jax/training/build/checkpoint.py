"""`config.checkpoint`: when to save, and which checkpoints to keep."""

import dataclasses

from etils import epath
from ml_collections import ConfigDict

from timix_jax.checkpointing import Checkpointer
from timix_jax.runtime.workdir import CHECKPOINTS_FOLDER


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """`config.checkpoint`; `keep_every` is 0 for no further checkpoints than the last `keep_last`."""

    every: str
    keep_last: int
    keep_every: int

    @classmethod
    def read(cls, config: ConfigDict) -> "CheckpointSettings":
        """Read the group."""
        return cls(**config.checkpoint)


def open_checkpointer(settings: CheckpointSettings, workdir: epath.Path) -> Checkpointer:
    """Open the checkpoints of a working folder; the caller closes them."""
    return Checkpointer(
        workdir / CHECKPOINTS_FOLDER,
        keep_last=settings.keep_last,
        keep_every=settings.keep_every or None,
    )
