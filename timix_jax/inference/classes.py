"""Classes as embeddings, for zero-shot classification."""

from collections.abc import Callable, Sequence

import numpy as np

from timix_jax.errors import UserError
from timix_jax.evaluators.classification import unit_means
from timix_jax.evaluators.prompts import Prompts


def embedded_classes(
    encode_text: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    templates: Sequence[str],
) -> np.ndarray:
    """Return the normalised mean embedding of each class over its prompts, float32 (C, D).

    Args:
      encode_text: maps M texts to embeddings (M, D) of length 1.
      class_names: C names, in which `_` is a space.
      templates: prompts with `{}` in place of the name.

    Raises:
      UserError: no class, or a template without `{}`.
    """
    templates = [templates] if isinstance(templates, str) else list(templates)
    if isinstance(class_names, str) or not len(class_names):
        raise UserError(f"class_names={class_names!r}: give a list of names")
    if not templates or any("{}" not in text for text in templates):
        raise UserError(
            f"templates={templates!r}: give texts with {{}} in place of the class, such as 'a photo of a {{}}.'"
        )
    prompts = Prompts("classify", list(class_names), templates)
    texts = [text for index in range(len(prompts)) for text in prompts[index].captions]
    owner = np.repeat(np.arange(len(prompts)), len(templates))
    return unit_means(encode_text(texts), owner, len(prompts))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, C) of logits (N, C)."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
