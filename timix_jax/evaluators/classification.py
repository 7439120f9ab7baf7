"""Zero-shot classification: each image against the prompts of all classes (CLIP, arXiv 2103.00020, section 3.1)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from timix_jax.data.loading.class_names import class_names
from timix_jax.data.loading.share import Share
from timix_jax.data.records.schema import CorruptExample
from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.embeddings import Embedder
from timix_jax.evaluators.placement import own_share
from timix_jax.evaluators.prompts import Prompts, merge_equal_classes
from timix_jax.evaluators.ranks import positive_similarity, ranks_one_way

if TYPE_CHECKING:
    from timix_jax.data.sources import Source

TOP = (1, 5)
_BLOCK = 2048  # classes and images per tile of the similarities


@dataclasses.dataclass(frozen=True)
class ClassificationEvaluator(Evaluator):
    """Accuracy of the nearest class, on a set whose captions are class names.

    The classes are the captions that occur in the set; those whose prompts have the same tokens count as one. The
    embedding of a class is the mean over its prompts, normalised to length 1. Ties count as misses.

    Attributes:
      inputs: see `EvaluationInputs`.
      templates: the prompts of a class, with `{}` in place of its name, in which `_` is a space.

    Raises:
      UserError: the source is empty, an example is corrupt or does not have exactly one caption, no two classes have
        different tokens, or a template lacks `{}`.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)

    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Zero-shot classification": {"top1": "top 1", "class_mean": "top 1, mean over classes"}
    }

    @classmethod
    def applies_to(cls, source: Source) -> bool:
        """Return True if the first image has exactly one caption, as in every set of classes."""
        try:
            return len(source) > 0 and len(source[0].captions) == 1
        except CorruptExample:
            return True  # the evaluation names the example

    def __post_init__(self) -> None:
        wrong = [text for text in self.templates if "{}" not in text]
        if wrong or not self.templates:
            raise UserError(
                f"config.eval.options.classification.templates={self.templates!r}: give one or more texts"
                " with {} in place of the class, such as ('a photo of a {}.',)"
            )
        if not self.applies_to(self.inputs.source):
            raise UserError(
                f"Evaluation set {self.inputs.source.name!r} has no class names: classification needs exactly one"
                " caption per image, so leave the evaluator out."
            )
        _ = self._classes  # read now, so that an unusable set is refused before a training starts

    def check(self) -> None:
        """Read all class names."""
        self._classes  # noqa: B018 - read once

    def run(self, params: Any) -> dict[str, float]:
        """Measure accuracies of `params` (on the mesh), as fractions.

        Returns:
          top1, top5 over images; class_mean, the mean over classes of each one's top1; top1_chance.

        Raises:
          UserError: an example is corrupt, or the embeddings exceed memory.
        """
        names, label = self._classes
        prompts = self._prompts(names)
        texts, owner = self._embedder.captions(params, prompts)
        classes = unit_means(texts, owner, len(names))
        images = self._embedder.images(params)
        rank = ranks_one_way(
            images,
            label,
            positive_similarity(classes, images, label),
            classes,
            np.arange(len(names), dtype=np.int32),
            self.inputs.mesh,
            _BLOCK,
        )
        hit = rank < 1
        metrics = {f"top{k}": float(np.mean(rank < k)) for k in TOP}
        right = np.bincount(label, hit, len(names)) / np.bincount(label, minlength=len(names))
        return metrics | {"class_mean": float(right.mean()), "top1_chance": 1 / len(names)}

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return accuracies in percent."""
        top1, top5, mean, chance = (
            100 * metrics[name] for name in ("top1", "top5", "class_mean", "top1_chance")
        )
        return f"zero-shot top 1/5 {top1:.1f} / {top5:.1f}%, mean over classes {mean:.1f}% (chance {chance:.1f})"

    @functools.cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.inputs, "classification")

    @functools.cached_property
    def _classes(self) -> tuple[list[str], np.ndarray]:
        """Return a name per class in order and the class of each image, int32 (N,); each process reads a part, once."""
        source = self.inputs.source
        names = [""] * len(source)
        for part in processes.gather(_own_names(source, own_share(self.inputs.mesh))):
            if "error" in part:  # one process found it, and all must stop
                raise UserError(part["error"])
            for index, name in zip(
                _examples(source, Share(*part["share"])), part["names"], strict=True
            ):
                names[index] = name
        different, label = np.unique(names, return_inverse=True)
        number = merge_equal_classes(self._prompts(different.tolist()), self.inputs)
        _, first = np.unique(number, return_index=True)
        return different[first].tolist(), number[label]

    def _prompts(self, names: Sequence[str]) -> Prompts:
        return Prompts(self.inputs.source.name, names, self.templates)


def _own_names(source: Source, share: Share) -> dict[str, Any]:
    """Return the classes of a share of the images, or the error in them."""
    try:
        return {"share": share, "names": class_names(source, _examples(source, share))}
    except UserError as error:
        return {"error": str(error)}


def _examples(source: Source, share: Share) -> list[int]:
    return [index for index in range(len(source)) if index % share.parts in share.own]


def unit_means(texts: np.ndarray, owner: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean of each owner's rows (M, D), normalised to length 1: float32 (classes, D)."""
    sums = np.zeros((classes, texts.shape[1]), np.float64)
    np.add.at(sums, owner, texts)
    with np.errstate(invalid="ignore"):  # zero length gives NaN, which never wins
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
