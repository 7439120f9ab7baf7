"""Evaluators by name: each measures one thing about the weights on one data source.

A new evaluator is one file with a frozen dataclass derived from `base.Evaluator`, and one line in `EVALUATORS`.
"""

import dataclasses
import difflib
from typing import Any

from timix_jax.errors import UserError
from timix_jax.evaluators.base import EvaluationInputs, Evaluator
from timix_jax.evaluators.classification import ClassificationEvaluator
from timix_jax.evaluators.patch_text import PatchTextEvaluator
from timix_jax.evaluators.retrieval import RetrievalEvaluator

__all__ = [
    "EVALUATORS",
    "EvaluationInputs",
    "Evaluator",
    "build_evaluator",
    "curve_panels",
    "evaluator_class",
]

EVALUATORS: dict[str, type[Evaluator]] = {
    "retrieval": RetrievalEvaluator,
    "patch_text": PatchTextEvaluator,
    "classification": ClassificationEvaluator,
}


def evaluator_class(name: str) -> type[Evaluator]:
    """The class called `name`.

    Raises:
      UserError: an unknown name; the message has the nearest that is known.
    """
    if name not in EVALUATORS:
        close = difflib.get_close_matches(name, EVALUATORS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "choose another."
        raise UserError(
            f"Unknown evaluator {name!r}; known are {', '.join(sorted(EVALUATORS))}: {hint}"
        )
    return EVALUATORS[name]


def build_evaluator(name: str, inputs: EvaluationInputs, /, **options: Any) -> Evaluator:
    """Makes the evaluator `name` for one model and one data source.

    Args:
      name: a key of `EVALUATORS`.
      inputs: what every evaluator is given.
      **options: settings of its own, fields of its class, such as `block=1024`.

    Raises:
      UserError: an unknown name or option, a value out of range, or a source that the evaluator cannot use (empty,
        without boxes).

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
    return kind(inputs, **options)


def curve_panels() -> dict[str, dict[str, str]]:
    """What the training curves draw of all evaluators: title of a panel → metric → its name in the legend."""
    panels: dict[str, dict[str, str]] = {}
    for kind in EVALUATORS.values():
        for title, metrics in kind.panels.items():
            panels.setdefault(title, {}).update(metrics)
    return panels
