"""The interface of an objective: what it declares, and the term it returns."""

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
"""Metadata of a dataclass field that the code sets and the configuration does not show."""


class Term(NamedTuple):
    """An objective's result for one step.

    Attributes:
      loss: float32 scalar, before the objective's weight.
      log: further scalars for the log.
      state: the objective's state after the step, with the structure of `Objective.init_state`; None if it has none.
    """

    loss: Array
    log: Mapping[str, Array] = {}
    state: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A term of the total loss; an implementation is a frozen dataclass of its settings.

    It declares the features that it reads (`reads`) and the views of the batch that they come from (`views`), and
    computes its loss from a `Forward`, which runs each pass once for all objectives.

    Attributes:
      name: key of its loss in the log (`loss/NAME`) and of its state.
      weight: its factor in the total loss.
      starts_at: first step that includes it.
      ends_at: first step without it; None: it never ends. Each set of active objectives is a program of its own.

    **Example:**

        @dataclasses.dataclass(frozen=True)
        class SmallTexts(Objective):
            power: float = 2.0  # config.loss.small_texts.power
            name: ClassVar[str] = "small_texts"

            def reads(self, model):
                return [Feature("text")]

            def __call__(self, forward):
                mean = forward.text().embedding.mean(axis=0)
                return Term(jnp.sum(jnp.abs(mean) ** self.power))
    """

    weight: float = 1.0
    starts_at: int = dataclasses.field(default=0, metadata=INTERNAL)
    ends_at: int | None = dataclasses.field(default=None, metadata=INTERNAL)

    name: ClassVar[str]
    reads_regions: ClassVar[bool] = False
    """True for an objective that reads `batch["regions"]`, the annotated images."""

    @property
    def views(self) -> Sequence[View]:
        """Views that its features name, apart from the clean batch."""
        return ()

    @abc.abstractmethod
    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return every feature that `__call__` reads.

        Raises:
          UserError: the model lacks something that the objective needs.
        """

    def init_state(self, model: ImageTextModel) -> Any:
        """Return the objective's initial state, a tree of arrays; None for an objective without state."""
        del model
        return None

    @abc.abstractmethod
    def __call__(self, forward: Forward) -> Term:
        """Compute the term for one step; `forward.state[self.name]` is the objective's state."""


def objectives_at(objectives: Sequence[Objective], step: int) -> list[Objective]:
    """Return the objectives that are active at a step."""
    return [
        o for o in objectives if o.starts_at <= step and (o.ends_at is None or step < o.ends_at)
    ]


def boundaries(objectives: Sequence[Objective]) -> list[int]:
    """Return the steps at which the set of active objectives changes, in ascending order."""
    ends = {o.starts_at for o in objectives} | {o.ends_at for o in objectives}
    return sorted(step for step in ends if step)


def prepare_forward(
    model: ImageTextModel,
    objectives: Sequence[Objective],
    params: Any,
    batch: Mapping[str, Any],
    **options: Any,
) -> Forward:
    """Collect what the objectives declare in a `Forward`; no pass runs yet.

    Args:
      model: the model's pure functions.
      objectives: the active objectives.
      params: the student's parameters.
      batch: the global batch.
      **options: `teacher`, `step`, `seed_key` and `state` of `Forward`.
    """
    views = [view for o in objectives for top in o.views for view in _with_parts(top)]
    reads = [f for o in objectives for f in o.reads(model)]
    reads += [f for view in views for f in view.reads(model)]
    return Forward(model, params, batch, reads=reads, views=views, **options)


def _with_parts(view: View) -> Iterator[View]:
    yield view
    for part in view.parts:
        yield from _with_parts(part)
