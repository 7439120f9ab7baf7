"""Evaluators by name: each measures one thing about the weights on one data source.

A new evaluator is one module with a class (or function) that takes the keyword arguments of
:func:`build_evaluator` and returns an object with ``run(params)``; one line in :data:`EVALUATORS`
adds it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from timix_jax.errors import UserError

if TYPE_CHECKING:
    import jax

    from timix_jax.data.sources import Source
    from timix_jax.data.tokenizers import Tokenizer
    from timix_jax.models.dual_encoder import DualEncoder

# Name -> "module:factory". A module is imported when it is asked for, so that a missing optional
# dependency of one evaluator does not stop the others.
EVALUATORS: dict[str, str] = {
    "retrieval": "timix_jax.evaluators.retrieval:RetrievalEvaluator",
    "patch_text": "timix_jax.evaluators.patch_text:PatchTextEvaluator",
}


class Evaluator(Protocol):
    """One measurement of one data source, repeatable for any weights of one model."""

    def run(self, params: Any) -> Mapping[str, float]:
        """Measures ``params``: name -> fraction (0 to 1)."""
        ...


def build_evaluator(
    name: str,
    *,
    model: DualEncoder,
    source: Source,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
    image_size: int,
    max_tokens: int,
    batch_size: int,
) -> Evaluator:
    """Makes the evaluator ``name`` for one model and one data source.

    Args:
      name: a key of :data:`EVALUATORS`.
      model: the pure functions of the model.
      source: the examples; each evaluator reads all of those that it can use.
      tokenizer: turns captions into tokens as in training.
      mesh: devices over which a batch is split; batches are enlarged to a multiple of their number.
      image_size: side of the square images, pixels.
      max_tokens: tokens a caption.
      batch_size: images a batch.

    Raises:
      UserError: an unknown name, or a source that the evaluator cannot use (empty, without boxes).
    """
    if name not in EVALUATORS:
        close = difflib.get_close_matches(name, EVALUATORS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "choose another."
        raise UserError(
            f"Unknown evaluator {name!r}; known are {', '.join(sorted(EVALUATORS))}: {hint}"
        )
    module, factory = EVALUATORS[name].split(":")
    return getattr(importlib.import_module(module), factory)(
        model=model,
        source=source,
        tokenizer=tokenizer,
        mesh=mesh,
        image_size=image_size,
        max_tokens=max_tokens,
        batch_size=batch_size,
    )
