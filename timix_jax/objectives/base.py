"""What every objective sees of a step, and what it gives back."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax

from timix_jax import rng
from timix_jax.models.dual_encoder import DualEncoder, ImageFeatures, TextFeatures
from timix_jax.objectives.passes import Batch, Pass

Array = jax.Array


class Forward(NamedTuple):
    """The passes that objectives share, over the global batch B.

    Attributes:
      params: the student's parameters.
      teacher: the moving average of the parameters, or None.
      batch: image uint8 (B, H, W, 3), tokens int32 (B, T); boxes, box_mask, regions where the data has them.
      patches: (B, N, C) patch embeddings of the clean images, before position embeddings.
      image: features of the clean images, or None where no objective asked for them; with patch dropout, of the
        patches that were kept.
      text: features of the captions.
      step: int32 scalar, traced.
      seed_key: the run's key; draw from it with `stream`.
    """

    params: Any
    teacher: Any | None
    batch: dict[str, Any]
    patches: Array
    image: ImageFeatures | None
    text: TextFeatures
    step: Array
    seed_key: Array

    def stream(self, name: str) -> Array:
        """The key of the named random stream at this step."""
        return rng.stream(self.seed_key, name, self.step)


class Objective(abc.ABC):
    """A term of the one summed loss; an implementation is a frozen dataclass of its settings.

    What is a property here may be a `ClassVar` there.

    Attributes:
      name: key of its loss in the log (`loss/NAME`).
      weight: its factor in the sum.
    """

    name: ClassVar[str]
    weight: float

    @property
    def needs_clean(self) -> bool:
        """Whether it reads `Forward.image`: then the clean images go through the whole tower, once for all."""
        return False

    @property
    def trains_clean(self) -> bool:
        """Whether its gradient flows into `Forward.image`."""
        return self.needs_clean

    @property
    def capture(self) -> int | None:
        """The ViT block whose tokens it reads from `Forward.image.captured`, or None."""
        return None

    @property
    def gives_way(self) -> bool:
        """Whether mixed images that take the clean ones' place (`mix.placement="replace"`) take over this loss."""
        return False

    @property
    def ends_at(self) -> int | None:
        """First step without it (`training.programs`), whose log lacks its loss and scalars; None: it lasts."""
        return None

    @property
    def successor(self) -> "Objective | None":
        """What takes its place from `ends_at` on, under another name, or None."""
        return None

    def passes(self, model: DualEncoder, batch: Batch) -> Sequence[Pass]:
        """What it runs beside the shared passes (`timix_jax.training.step.shared_passes`); nothing by default.

        Args:
          model: the pure functions.
          batch: the global batch, or its shapes: only those are read.
        """
        del model, batch
        return ()

    @abc.abstractmethod
    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """The unweighted loss, a float32 scalar, and further scalars for the log."""


def objectives_at(objectives: Sequence[Objective], step: int) -> list[Objective]:
    """The objectives of a step: those that have ended give their place to their successors, where they have any."""
    present = []
    for objective in objectives:
        now: Objective | None = objective
        while now is not None and now.ends_at is not None and step >= now.ends_at:
            now = now.successor
        if now is not None:
            present.append(now)
    return present
