"""Evaluators: each measures one thing about the weights of a model on one data source.

A new evaluator is one file with a frozen dataclass that inherits from `base.Evaluator`, and one line in `EVALUATORS`.
Models are known by their protocols only. May import models.protocols, data, parallel, distributed, decoding and the
patch labels and score sources of objectives; not training.
"""

import dataclasses
import difflib
from typing import Any

from timix_jax.errors import UserError
from timix_jax.evaluators.base import EvaluationInputs, Evaluator
from timix_jax.evaluators.captions import CaptionEvaluator
from timix_jax.evaluators.classification import ClassificationEvaluator
from timix_jax.evaluators.masked_words import MaskedWordsEvaluator
from timix_jax.evaluators.patch_scores import PatchScoresEvaluator
from timix_jax.evaluators.patch_text import PatchTextEvaluator
from timix_jax.evaluators.prefix_words import PrefixWordsEvaluator
from timix_jax.evaluators.reranked import RerankedEvaluator
from timix_jax.evaluators.retrieval import RetrievalEvaluator
from timix_jax.models.protocols import require

__all__ = [
    "EVALUATORS",
    "EvaluationInputs",
    "Evaluator",
    "build_evaluator",
    "curve_panels",
    "evaluator_class",
    "evaluator_name",
]

EVALUATORS: dict[str, type[Evaluator]] = {
    "retrieval": RetrievalEvaluator,
    "patch_text": PatchTextEvaluator,
    "patch_scores": PatchScoresEvaluator,
    "classification": ClassificationEvaluator,
    "reranked": RerankedEvaluator,
    "masked_words": MaskedWordsEvaluator,
    "prefix_words": PrefixWordsEvaluator,
    "captions": CaptionEvaluator,
}


def evaluator_class(name: str) -> type[Evaluator]:
    """Return the evaluator class called `name`.

    Raises:
      UserError: the name is unknown; the message suggests the closest one.
    """
    if name not in EVALUATORS:
        close = difflib.get_close_matches(name, EVALUATORS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "choose another."
        raise UserError(
            f"Unknown evaluator {name!r}; known are {', '.join(sorted(EVALUATORS))}: {hint}"
        )
    return EVALUATORS[name]


def build_evaluator(name: str, inputs: EvaluationInputs, /, **options: Any) -> Evaluator:
    """Build the evaluator `name` for one model and one data source.

    Args:
      name: a key of `EVALUATORS`.
      inputs: model, source and how to read it.
      **options: settings of the evaluator, fields of its class, such as `block=1024`.

    Raises:
      UserError: an unknown name or option, a value out of range, a model without an ability that the evaluator
        needs, or a source that it cannot use (empty, without boxes).

    **Example:**

        build_evaluator("retrieval", EvaluationInputs(model, source, tokenizer, mesh, ...)).run(params)["i2t_r1"]
    """
    kind = evaluator_class(name)
    valid = [field.name for field in dataclasses.fields(kind) if field.name != "inputs"]
    unknown = [option for option in options if option not in valid]
    if unknown:
        raise UserError(
            f"evaluator {name!r} has no option {unknown[0]!r}; "
            f"its options: {', '.join(valid) or 'none'}"
        )
    for ability in kind.abilities:
        require(inputs.model, ability, f"evaluator {name!r}")
    return kind(inputs, **options)


def evaluator_name(evaluator: Evaluator) -> str:
    """Return the name under which an evaluator is registered, or else that of its class."""
    kind = type(evaluator)
    return next((name for name, known in EVALUATORS.items() if known is kind), kind.__name__)


def curve_panels() -> dict[str, dict[str, str]]:
    """Return the training-curve panels of all evaluators: title → metric → name in the legend."""
    panels: dict[str, dict[str, str]] = {}
    for kind in EVALUATORS.values():
        for title, metrics in kind.panels.items():
            panels.setdefault(title, {}).update(metrics)
    return panels
