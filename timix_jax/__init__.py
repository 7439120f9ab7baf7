"""TiMix in JAX: data-efficient vision-language pre-training by text-aware image mixing (arXiv 2312.08846)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Any, Literal

    from timix_jax.inference import LoadedModel

__version__ = "0.1.0"
__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    weights: Literal["params", "ema"] | None = None,
    batch_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Open a trained model: embed images and texts, compare, classify, draw heat maps.

    Args:
      path: a working folder (its newest checkpoint), its checkpoints folder, or a step in it, local or gs://; or
        published or exported weights, a file or a folder (docs/pretrained.md).
      weights: "params" or "ema", their moving average; None for those that the run itself evaluates.
      batch_size: images or texts per batch over all devices; None for a moderate one.
      tokenizer: vocabulary of published weights; None for the one next to them.
      settings: fields that published weights do not state, such as `{"model.image.act": "quick_gelu"}`, and sizes to
        which they are fitted, such as `{"model.image.size": 336}`.

    Raises:
      UserError: there is no model, its files are damaged, or it is of a kind that this process does not know.

    **Example:**

        model = timix_jax.load("runs/demo")
        model.similarity(["one.jpg", "two.jpg"], ["a rocket", "a cow"])  # float32 (2, 2)
    """
    from timix_jax.inference import load_model  # JAX takes seconds to import

    return load_model(
        path, weights=weights, batch_size=batch_size, tokenizer=tokenizer, settings=settings
    )
