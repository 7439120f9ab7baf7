"""What every objective sees of a step, and what it gives back."""

from typing import Any, NamedTuple, Protocol

import jax

from timix_jax import rng
from timix_jax.models.dual_encoder import DualEncoder, ImageFeatures, TextFeatures

Array = jax.Array


class Forward(NamedTuple):
    """The passes that objectives share, over the global batch B.

    Attributes:
      params: the student's parameters.
      teacher: the moving average of the parameters, or None.
      batch: image uint8 (B,H,W,3), tokens int32 (B,T); boxes, box_mask, regions where the data has them.
      patches: (B,N,C) patch embeddings of the clean images, before position embeddings.
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


class Objective(Protocol):
    """A term of the one summed loss; an implementation is a frozen dataclass of its settings.

    Attributes:
      name: key of its loss in the log (``loss/NAME``).
      weight: its factor in the sum.
      needs_clean: whether it reads ``Forward.image``.
      capture: the ViT block whose tokens it reads from ``Forward.image.captured``, or None.
      ends_at: the step from which on the training goes on without it (`timix_jax.step_programs`), or None.
    """

    @property
    def name(self) -> str:
        """Key of the loss in the log."""

    @property
    def weight(self) -> float:
        """Factor in the sum."""

    @property
    def needs_clean(self) -> bool:
        """Whether the clean images must go through the whole tower."""

    @property
    def capture(self) -> int | None:
        """Block whose tokens are wanted beside the features of the clean images."""

    @property
    def ends_at(self) -> int | None:
        """First step without it: its loss and its scalars are logged as 0 from there on."""

    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """The unweighted loss, a float32 scalar, and further scalars for the log."""
