"""The interface of a view: other inputs for the towers, made from the batch."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import numpy as np

if TYPE_CHECKING:
    from timix_jax.mixing import Mixed, Sample
    from timix_jax.models.protocols import ImageTextModel, ReplacedWords
    from timix_jax.objectives.features import Feature
    from timix_jax.objectives.forward import Forward
    from timix_jax.objectives.pairs.shares import Shares

Array = jax.Array


@dataclasses.dataclass
class Inputs:
    """The towers' inputs for one view; None for a side that is the same as in the clean batch.

    Attributes:
      images: uint8 or float (n, H, W, 3) pixels.
      patches: (n, N, C) patches of the student's stem, in place of `images`.
      kept: int32 (n, K) the patches that the image tower reads; None: all, or those that patch dropout leaves.
      tokens: int32 (n, T) captions.
      words: what the text tower reads in place of some words of `tokens`; None: nothing.
      rows: rows of the clean batch that the view consists of; None for all of them.
      mix_embeddings: maps the embeddings (n, D) of images and captions to those that are compared; None: unchanged.
      mix_text: maps projected captions (n, D) before normalisation to mixed ones, of any norm; None: unchanged.
      shares: share of each caption in each image; None if image k shows caption k and nothing else.
      mixed: the mixer's result, if there is a mixer.
      sample: what the mixer was given, if there is a mixer.
    """

    images: Array | None = None
    patches: Array | None = None
    kept: Array | None = None
    tokens: Array | None = None
    words: ReplacedWords | None = None
    rows: np.ndarray | None = None
    mix_embeddings: Callable[[Array, Array], tuple[Array, Array]] | None = None
    mix_text: Callable[[Array], Array] | None = None
    shares: Shares | None = None
    mixed: Mixed | None = None
    sample: Sample | None = None


class View(abc.ABC):
    """Other inputs for the towers, made from the batch; an implementation is a frozen dataclass of its settings.

    An objective lists its views in `Objective.views` and names them in its features.

    Attributes:
      name: the name that features use. Two views with one name in the same step must be equal.

    **Example:**

        @dataclasses.dataclass(frozen=True)
        class Mirrored(View):
            name: ClassVar[str] = "mirrored"

            def make(self, forward):
                return Inputs(images=forward.batch["image"][:, :, ::-1])
    """

    name: ClassVar[str]

    @property
    def has_own_images(self) -> bool:
        """False if its images are rows of the clean batch, so that a clean pass can serve it."""
        return True

    @property
    def parts(self) -> Sequence[View]:
        """Views that this view reads."""
        return ()

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return every feature that `make` reads; none by default."""
        del model
        return ()

    @abc.abstractmethod
    def make(self, forward: Forward) -> Inputs:
        """Make the inputs; called at most once per step."""
