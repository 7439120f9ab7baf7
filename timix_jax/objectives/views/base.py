"""What a view of the batch is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import numpy as np

if TYPE_CHECKING:
    from timix_jax.mixing import Mixed
    from timix_jax.models.protocols import ImageTextModel
    from timix_jax.objectives.features import Feature
    from timix_jax.objectives.forward import Forward
    from timix_jax.objectives.pairs.shares import Shares

Array = jax.Array


@dataclasses.dataclass
class Inputs:
    """What the towers are shown of one view; a side that is None is that of the clean batch.

    Attributes:
      images: uint8 or float (n, H, W, 3) pixels.
      patches: (n, N, C) patches of the student's stem, in place of `images`.
      kept: int32 (n, K) the patches that the image tower reads; None: all, or those that patch dropout leaves.
      tokens: int32 (n, T) captions.
      rows: rows of the clean batch that the view is made of; None for all of them.
      pooled: changes the embeddings (n, D) of images and of captions.
      shares: which share of which caption each image shows; None where image k shows caption k alone.
      mixed: the mixer's answer, where there is a mixer.
      scores: (n, N) the scores that the mixer was given.
    """

    images: Array | None = None
    patches: Array | None = None
    kept: Array | None = None
    tokens: Array | None = None
    rows: np.ndarray | None = None
    pooled: Callable[[Array, Array], tuple[Array, Array]] | None = None
    shares: Shares | None = None
    mixed: Mixed | None = None
    scores: Array | None = None


class View(abc.ABC):
    """A way to show the batch to the towers; an implementation is a frozen dataclass of its settings.

    Attributes:
      name: by which features name it. Views of one name in one step must be equal.
    """

    name: ClassVar[str]

    @property
    def own_images(self) -> bool:
        """False where its images are rows of the clean batch, so that a clean pass can answer for it."""
        return True

    @property
    def parts(self) -> Sequence[View]:
        """Further views that this one is made of."""
        return ()

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the features that the view is made of; none by default."""
        del model
        return ()

    @abc.abstractmethod
    def make(self, forward: Forward) -> Inputs:
        """Make the view; called once per step, if it is read at all."""
