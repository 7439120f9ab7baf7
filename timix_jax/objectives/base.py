"""What an objective is, and what it gives back."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax

from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.views.base import View

Array = jax.Array

INTERNAL = {"configured": False}
"""Metadata of a dataclass field that is set by code and is no field of the configuration."""


class Term(NamedTuple):
    """What an objective makes of a step.

    Attributes:
      loss: unweighted, a float32 scalar.
      log: further scalars for the log.
      state: its own state after the step, of the structure of `Objective.init_state`; None for one without.
    """

    loss: Array
    log: Mapping[str, Array] = {}
    state: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A term of the one summed loss; an implementation is a frozen dataclass of its settings.

    Attributes:
      name: key of its loss in the log (`loss/NAME`) and of its state.
      weight: its factor in the sum.
      starts_at: first step with it.
      ends_at: first step without it; None = it lasts. A program is compiled for each set of objectives.
    """

    weight: float = 1.0
    starts_at: int = dataclasses.field(default=0, metadata=INTERNAL)
    ends_at: int | None = dataclasses.field(default=None, metadata=INTERNAL)

    name: ClassVar[str]

    @property
    def views(self) -> Sequence[View]:
        """The views that its features name, besides the clean one."""
        return ()

    @abc.abstractmethod
    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the features that it reads of a step.

        Raises:
          UserError: the model lacks what it needs.
        """

    def init_state(self, model: ImageTextModel) -> Any:
        """Return its own state before the first step, a tree of arrays; None for an objective without."""
        del model
        return None

    @abc.abstractmethod
    def __call__(self, forward: Forward) -> Term:
        """Return the loss of a step; `forward.state[name]` is its own state."""


def objectives_at(objectives: Sequence[Objective], step: int) -> list[Objective]:
    """Return the objectives of a step."""
    return [
        o for o in objectives if o.starts_at <= step and (o.ends_at is None or step < o.ends_at)
    ]


def boundaries(objectives: Sequence[Objective]) -> list[int]:
    """Return the steps, ascending, at which the set of objectives changes."""
    ends = {o.starts_at for o in objectives} | {o.ends_at for o in objectives}
    return sorted(step for step in ends if step)


def run_forward(
    model: ImageTextModel,
    objectives: Sequence[Objective],
    params: Any,
    batch: Mapping[str, Any],
    **options: Any,
) -> Forward:
    """Return the passes of a step of these objectives, none of which has run yet.

    Args:
      model: the pure functions.
      objectives: those of the step.
      params: the student's parameters.
      batch: the global batch.
      **options: teacher, step, seed_key and state of `Forward`.
    """
    views = [view for o in objectives for top in o.views for view in _with_parts(top)]
    reads = [f for o in objectives for f in o.reads(model)]
    reads += [f for view in views for f in view.reads(model)]
    return Forward(model, params, batch, reads=reads, views=views, **options)


def _with_parts(view: View) -> Iterator[View]:
    yield view
    for part in view.parts:
        yield from _with_parts(part)
