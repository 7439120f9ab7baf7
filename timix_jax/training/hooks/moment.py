"""A moment of a training run, as hooks see it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from timix_jax.training.state import TrainState


@dataclasses.dataclass
class Moment:
    """A training run between two steps.

    Attributes:
      step: number of steps taken.
      total_steps: number of steps of the whole training.
      state: the state after `step` steps; the next step consumes it.
      metrics: scalars of the last step, possibly still being computed; empty before the first step.
      example_ids: ids of the examples that this process contributed to the last step, (b,).
      skipped_examples: number of corrupt examples that this process has replaced.
      leaving: set by a hook to end the training here.
    """

    step: int
    total_steps: int
    state: TrainState
    metrics: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    example_ids: Any = ()
    skipped_examples: int = 0
    leaving: bool = False

    @property
    def is_last(self) -> bool:
        """Return True once all steps are taken."""
        return self.step >= self.total_steps

    def is_due(self, period: int) -> bool:
        """Return True every `period` steps (never for 0), and after the last step."""
        return self.is_last or (period > 0 and self.step % period == 0)


Hook = Callable[[Moment], None]
