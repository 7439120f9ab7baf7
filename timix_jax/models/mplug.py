"""mPLUG (arXiv 2205.12005): ALBEF with connected fusion layers and a decoder (docs/method.md §5)."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.albef import Albef
from timix_jax.models.cached_attention import Kept
from timix_jax.models.connected_stack import ConnectedStack, MixedMemory
from timix_jax.models.cross_block import Memory
from timix_jax.models.decoder import Decoder, DecoderConstants
from timix_jax.models.dropout import Dropout
from timix_jax.models.fusion_protocols import FusedFeatures
from timix_jax.models.generative_protocols import DecoderMemory
from timix_jax.models.microbatches import in_microbatches
from timix_jax.models.protocols import Params

Array = jax.Array


@dataclass(frozen=True)
class Mplug(Albef):
    """A dual encoder, fusion layers that also change the image states, and a decoder that reads both.

    The parameters `fusion`, `decoder` and `heads` stand next to the dual encoder's. Fusion layers
    and decoder have the width, heads, MLP and dropout of the text tower.

    Attributes:
      dual: both towers and the patch predictor.
      fusion_depth: number of fusion layers.
      stride: every stride-th fusion layer, counted from 0 and except the first, is a connected one
        (`connected_stack.layer_kinds`); with 6 layers and 3 it is layer 3, with 6 or more none.
      decoder_depth: layers of the decoder, which reads the final states of image and prefix in each of them.

    **Example:**

        model = Mplug(DualEncoder(image_shape, text_shape), fusion_depth=6, stride=3, decoder_depth=12)
        image, text = model.encode_image(...), model.encode_text(params, prefix)
        fused = model.fuse(params, text.tokens, text.mask, model.image_memory(params, image.tokens))
        memory = model.decoder_memory(params, fused, text.mask)
        logits = model.decoder_logits(params, model.decode(params, tokens, memory))
    """

    stride: int = 3
    decoder_depth: int = 12

    def __post_init__(self) -> None:
        """Refuse a model without fusion or decoder."""
        super().__post_init__()
        for field in ("stride", "decoder_depth"):
            if getattr(self, field) < 1:
                raise UserError(f"{field}={getattr(self, field)}: give at least 1")

    @property
    def _shape(self) -> dict[str, Any]:
        """The shape and settings that fusion layers and decoder share with the text tower."""
        dual, text = self.dual, self.dual.text
        return {
            **{"width": text.width, "heads": text.heads, "mlp_dim": text.mlp_dim},
            "eps": dual.text_variant.eps or 1e-12,
            "act": dual.text_variant.act or dual.act,
            **{"dtype": dual.dtype, "scan": dual.scan, "remat": dual.remat, "layout": dual.layout},
        }

    @property
    def _fusion(self) -> ConnectedStack:
        width = self.dual.image.width
        shape = self._shape
        return ConnectedStack(self.fusion_depth, self.stride, states_width=width, **shape)

    @property
    def _decoder(self) -> Decoder:
        text = self.dual.text
        return Decoder(
            vocab_size=text.vocab_size,
            max_tokens=text.max_tokens,
            depth=self.decoder_depth,
            states_width=text.width,
            **self._shape,
        )

    @property
    def max_decoded(self) -> int:
        """Largest number of tokens that the decoder reads."""
        return self.dual.text.max_tokens

    def declared_parts(self, key: Array) -> Params:
        """Return fresh parameters of the fusion layers, the decoder and the heads."""
        # Without a layout, which would split the one caption that is read here over devices.
        fresh = self._decoder.clone(layout=None)
        decoder = fresh.init(jax.random.fold_in(key, 1), method="initialise")["params"]
        return {**super().declared_parts(key), "decoder": decoder}

    def _memory(self, params: Params, tokens: Array) -> MixedMemory:
        memory: Any = self._fusion.apply(
            {"params": self._with_whole(params["fusion"], "fusion")}, tokens, method="memory"
        )
        return memory

    def _read(
        self, params: Params, states: Array, mask: Array, memory: Any, dropout: Dropout | None
    ) -> FusedFeatures:
        variables = {"params": params["fusion"]}
        return FusedFeatures(*self._fusion.apply(variables, states, mask, memory, dropout))

    def decoder_memory(self, params: Params, fused: FusedFeatures, mask: Array) -> DecoderMemory:
        """Return the keys and values of [image ; prefix] in all decoder layers.

        With microbatches these are the states themselves, so that only the keys and values of one part exist at a time.
        """
        assert fused.image is not None, "connected fusion returns image states"
        states = jnp.concatenate([fused.image, fused.text.astype(fused.image.dtype)], axis=1)
        seen = jnp.concatenate([jnp.ones(fused.image.shape[:2], bool), mask], axis=1)
        if self.dual.microbatches > 1:
            return DecoderMemory(states, seen)
        return DecoderMemory(self._decoder_memory(params, states), seen)

    def _decoder_memory(self, params: Params, states: Array) -> Memory:
        memory: Memory = self._apply_decoder(params, states, method="memory")
        return memory

    def decode(
        self, params: Params, tokens: Array, memory: DecoderMemory, *, key: Array | None = None
    ) -> Array:
        """Read whole texts int32 (B, T), start token first: states (B, T, C), each of a token and those before it."""
        dropout = Dropout.of_rows(key, len(tokens), self.text_dropout)
        run = functools.partial(self._apply_decoder, params)
        if self.dual.microbatches == 1:
            states: Array = run(tokens, memory.read, memory.mask, dropout)
            return states

        def part(tokens: Array, states: Array, mask: Array, dropout: Dropout | None) -> Array:
            decoded: Array = run(tokens, self._decoder_memory(params, states), mask, dropout)
            return decoded

        count, layout = self.dual.microbatches, self.dual.layout
        states = in_microbatches(part, tokens, *memory, dropout, count=count, layout=layout)
        return states

    def decoder_logits(self, params: Params, states: Array) -> Array:
        """Return the logits (..., V) float32 of the tokens after the states (..., C)."""
        logits: Array = self._apply_decoder(params, states, method="logits")
        return logits

    def start_decoding(
        self, params: Params, memory: DecoderMemory, *, beams: int, max_tokens: int
    ) -> tuple[DecoderConstants, list[Kept]]:
        """Return what all steps share, and an empty cache: per layer keys and values (B, K, heads, T, D)."""
        if max_tokens > self.max_decoded:
            raise UserError(
                f"max_tokens={max_tokens} exceeds the decoder's {self.max_decoded} positions"
                " (config.model.text.max_tokens)"
            )
        constants: DecoderConstants = self._apply_decoder(
            params, memory.read, memory.mask, method="constants"
        )
        text = self.dual.text
        shape = (len(memory.mask), beams, text.heads, max_tokens, text.width // text.heads)
        empty = Kept(*(jnp.zeros(shape, self.dual.dtype) for _ in Kept._fields))
        return constants, [empty] * self.decoder_depth

    def decode_step(
        self,
        params: Params,
        constants: DecoderConstants,
        tokens: Array,
        position: Array,
        cache: list[Kept],
    ) -> tuple[Array, list[Kept]]:
        """Read one token per beam, int32 (B, K): logits (B, K, V) float32 of the next tokens, and the cache."""
        by_row = lambda x: x.reshape(-1, *x.shape[2:])
        by_beam = lambda x: x.reshape(*tokens.shape, *x.shape[1:])
        variables = {"params": {**constants.outside, "blocks": params["decoder"]["blocks"]}}
        arguments = (constants, tokens.reshape(-1), position, jax.tree.map(by_row, cache))
        stepped: Any = self._decoder.apply(variables, *arguments, method="step")
        return jax.tree.map(by_beam, stepped)

    def _apply_decoder(self, params: Params, *args: Any, **options: Any) -> Any:
        own = self._with_whole(params["decoder"], "decoder")
        return self._decoder.apply({"params": own}, *args, **options)

    def _with_whole(self, params: Params, part: str) -> Params:
        """Gather what is not in stacked layers, which gather themselves."""
        stacked = ("blocks", "cross", "connected")
        outside = {name: leaf for name, leaf in params.items() if name not in stacked}
        return {**params, **self._gathered(outside, part)}
