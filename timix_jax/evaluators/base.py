"""What an evaluator takes and gives."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import jax

    from timix_jax.data.sources import Source
    from timix_jax.data.tokenizers import Tokenizer
    from timix_jax.models.protocols import ImageTextModel


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """What every evaluator is given: one model, one data source, and how they are read.

    Attributes:
      model: the pure functions of the model.
      source: the examples; each evaluator reads all of those that it can use.
      tokenizer: turns captions into tokens as in training.
      mesh: devices over which a batch is split; batches are enlarged to a multiple of their number.
      image_size: side of the square images, pixels.
      max_tokens: tokens a caption.
      batch_size: images a batch.
      max_regions: regions a row of a batch of regions; an image with more takes several rows.
    """

    model: ImageTextModel
    source: Source
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    image_size: int
    max_tokens: int
    batch_size: int
    max_regions: int = 5


@dataclasses.dataclass(frozen=True)
class Evaluator(abc.ABC):
    """One measurement of one data source, repeatable for any weights of one model.

    Further fields of a subclass, which is a frozen dataclass too, are its settings: with their
    defaults they become `config.eval.options.NAME`. It refuses what it cannot use when it is
    built, with a UserError.
    """

    inputs: EvaluationInputs

    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """What the training curves draw of it: title of a panel → metric → its name in the legend."""

    @classmethod
    def applies_to(cls, source: Source) -> bool:
        """Whether it has something to measure there; a set for which it has not goes without it."""
        return True

    @abc.abstractmethod
    def run(self, params: Any) -> Mapping[str, float]:
        """Measures `params` (on the mesh); called by all processes at once.

        Returns:
          name → fraction (0 to 1), names unlike those of the other evaluators.
        """

    def text(self, metrics: Mapping[str, float]) -> str:
        """One line about what `run` gave."""
        return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
