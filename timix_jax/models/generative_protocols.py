"""What other packages know about a model that writes texts about images."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from timix_jax.models.fusion_protocols import FusedFeatures, FusionModel
from timix_jax.models.protocols import ABILITIES, Params

Array = jax.Array


class DecoderMemory(NamedTuple):
    """What a decoder reads: image states and a prefix.

    Attributes:
      read: any tree of arrays with B rows.
      mask: (B, S) bool, False for padding.
    """

    read: Any
    mask: Array


@runtime_checkable
class GenerativeModel(FusionModel, Protocol):
    """A model with a decoder that reads fused image states and prefix, [image ; prefix] (docs/method.md §5).

    **Example:**

        fused = model.fuse(params, text.tokens, text.mask, model.image_memory(params, image.tokens))
        memory = model.decoder_memory(params, fused, text.mask)
        states = model.decode(params, tokens, memory)  # teacher forcing
        model.decoder_logits(params, states)  # (B, T, V): of the token after each
        constants, cache = model.start_decoding(params, memory, beams=3, max_tokens=20)
        logits, cache = model.decode_step(params, constants, tokens[:, :1], 0, cache)
    """

    @property
    def max_decoded(self) -> int:
        """Largest number of tokens that the decoder reads."""
        ...

    def decoder_memory(self, params: Params, fused: FusedFeatures, mask: Array) -> DecoderMemory:
        """Return what the decoder reads of B images and prefixes, computed once for all steps and beams.

        Args:
          fused: image and text states from `fuse`.
          mask: (B, T) bool of the prefixes, False for padding.
        """
        ...

    def decode(
        self, params: Params, tokens: Array, memory: DecoderMemory, *, key: Array | None = None
    ) -> Array:
        """Read whole texts int32 (B, T), start token first: states (B, T, C), each of a token and those before it.

        `key` draws what dropout drops; None for no dropout.
        """
        ...

    def decoder_logits(self, params: Params, states: Array) -> Array:
        """Return the logits (..., V) float32 of the tokens after the states (..., C)."""
        ...

    def start_decoding(
        self, params: Params, memory: DecoderMemory, *, beams: int, max_tokens: int
    ) -> tuple[Any, Any]:
        """Return what all steps of a generation share, and an empty cache with leaves (B, K, ...)."""
        ...

    def decode_step(
        self, params: Params, constants: Any, tokens: Array, position: Array, cache: Any
    ) -> tuple[Array, Any]:
        """Read one token per beam, int32 (B, K), at the same position: logits (B, K, V) float32 of the next tokens.

        Returns:
          The logits, equal to those of `decode` on the texts so far, and the cache with these tokens.
        """
        ...


ABILITIES[GenerativeModel] = "a decoder (decode)"
