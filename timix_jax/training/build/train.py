"""`config.train`: batch size, length and microbatches of a training."""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from timix_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """`config.train`.

    Attributes:
      batch_size: images per step, over all devices.
      duration: length of the training, such as "30 epochs".
      accumulate: microbatches per step.
    """

    batch_size: int
    duration: str
    accumulate: int

    @classmethod
    def read(cls, config: ConfigDict) -> "TrainSettings":
        """Read the group."""
        return cls(**config.train)

    def total_steps(self, to_steps: Callable[..., int]) -> int:
        """Return the number of steps; `to_steps` converts a duration, given its `field` too."""
        total = to_steps(self.duration, field="config.train.duration")
        if total < 1:
            raise UserError(f"config.train.duration={self.duration!r}: give at least 1 step")
        return total
