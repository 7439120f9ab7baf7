"""What other packages know about a model that reads images and captions together."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from timix_jax.models.protocols import ABILITIES, ImageTextModel, Params

Array = jax.Array


class FusedFeatures(NamedTuple):
    """Output of a fusion encoder for R captions, each of which reads one image.

    Attributes:
      text: (R, T, C) last hidden states of the captions; the first token stands for the pair.
      image: (R, S, C) image states that the captions changed; None for a model that leaves images as they are.
    """

    text: Array
    image: Array | None = None


@runtime_checkable
class FusionModel(ImageTextModel, Protocol):
    """A model whose captions read image tokens, with heads for matching and for masked words (docs/method.md §5).

    **Example:**

        memory = model.image_memory(params, image.tokens)  # once per image
        fused = model.fuse(params, text.tokens, text.mask, memory)
        model.itm_logits(params, fused.text)  # (B, 2)
        model.word_logits(params, fused.text)  # (B, T, V)
    """

    @property
    def vocab_size(self) -> int:
        """V, number of token ids."""
        ...

    def image_memory(self, params: Params, tokens: Array) -> Any:
        """Return what captions read of images, given all final tokens (B, S, C): any tree of arrays.

        Every caption of an image, and every pass, may share it.
        """
        ...

    def fuse(
        self, params: Params, states: Array, mask: Array, memory: Any, *, key: Array | None = None
    ) -> FusedFeatures:
        """Let captions read images.

        Args:
          states: (R, T, C) hidden states of captions (`TextFeatures.tokens`); R = B·G, where G consecutive captions
            read the same image.
          mask: (R, T) bool, False for padding.
          memory: from `image_memory` for B images.
          key: draws what dropout drops (`text_dropout`); None for no dropout.
        """
        ...

    def itm_logits(self, params: Params, states: Array) -> Array:
        """Return the logits (R, 2) float32 of fused states (R, T, C); class 1: caption and image belong together."""
        ...

    def word_logits(self, params: Params, states: Array) -> Array:
        """Return the logits (..., V) float32 of the words at fused states (..., C)."""
        ...


ABILITIES[FusionModel] = "a fusion encoder (fuse)"
