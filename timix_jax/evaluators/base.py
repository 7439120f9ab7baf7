"""The inputs of an evaluator and the interface that it follows."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import jax

    from timix_jax.data.sources import Source
    from timix_jax.data.tokenizers import Tokenizer
    from timix_jax.models.protocols import ImageTextModel


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """Inputs of every evaluator: a model, a data source, and how to read the source.

    Attributes:
      model: the pure functions of the model.
      source: the examples; each evaluator reads all that it can use.
      tokenizer: turns captions into tokens as in training.
      mesh: devices over which a batch is split; batches are enlarged to a multiple of their number.
      image_size: side of the square images in pixels.
      max_tokens: tokens per caption.
      batch_size: images per batch.
      max_regions: regions per row of a batch of regions; an image with more takes several rows.
      score: the score source that mixing uses (`mix.score`); empty if it uses none.
    """

    model: ImageTextModel
    source: Source
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    image_size: int
    max_tokens: int
    batch_size: int
    max_regions: int
    score: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluator(abc.ABC):
    """One measurement of one data source, repeatable for any weights of one model.

    Further fields of a subclass, which is a frozen dataclass too, are its settings and become
    `config.eval.options.NAME` with their defaults. A source or setting that it cannot use is refused with a
    UserError when it is built.
    """

    inputs: EvaluationInputs

    abilities: ClassVar[Sequence[type]] = ()
    """Protocols of `models.protocols` that it needs besides `ImageTextModel`."""

    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Panels that it adds to the training curves: title → metric → name in the legend."""

    @classmethod
    def applies_to(cls, source: Source) -> bool:
        """Return True if the source holds something to measure; sets without it skip this evaluator."""
        return True

    @classmethod
    def supports(cls, model: ImageTextModel) -> bool:
        """Return True if the model has all `abilities`."""
        return all(isinstance(model, ability) for ability in cls.abilities)

    def check(self) -> None:  # noqa: B027 - most have nothing to read
        """Refuse a source that captions or boxes show to be unusable; all processes call it once, before training.

        Raises:
          UserError: `run` would fail, after hours of training.
        """

    @abc.abstractmethod
    def run(self, params: Any) -> Mapping[str, float]:
        """Measure `params` (on the mesh); all processes call it at once.

        Returns:
          name → fraction (0 to 1); no two evaluators share a name.

        Raises:
          UserError: the data cannot be measured, on all processes. Training goes on without this measurement.
        """

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return one line about the metrics that `run` returned."""
        return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
