"""A model that contains a dual encoder, whose parameters stay where they are in the tree."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import jax

from timix_jax.models.axes import axes_of, unbox
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.protocols import (
    ImageFeatures,
    ImageTextModel,
    Params,
    ReplacedWords,
    TextFeatures,
)

Array = jax.Array


class ContainsDualEncoder(ImageTextModel):
    """The dual encoder's functions for a frozen dataclass with a field `dual`, which adds parts of its own.

    A subclass declares fresh parameters of these parts in `declared_parts`. With the same key, both towers start as
    those of the dual encoder alone.
    """

    dual: DualEncoder

    @abc.abstractmethod
    def declared_parts(self, key: Array) -> Params:
        """Return the fresh parameters of the parts besides the dual encoder, boxed with their axes."""

    def init(self, key: Array) -> Params:
        """Return fresh float32 parameters: those of the dual encoder, and the other parts next to them."""
        own = self.declared_parts(jax.random.fold_in(key, 1))
        return {**self.dual.init(key), **unbox(own)}

    def parameter_axes(self) -> Params:
        """Return the declared `Axes` of each parameter."""
        own = jax.eval_shape(self.declared_parts, jax.random.key(0))
        return {**self.dual.parameter_axes(), **axes_of(own)}

    @property
    def grid(self) -> int:
        """g, patches per side."""
        return self.dual.grid

    @property
    def embed_dim(self) -> int:
        """D, the width of the shared space."""
        return self.dual.embed_dim

    @property
    def vocab_size(self) -> int:
        """V, number of token ids."""
        return self.dual.text.vocab_size

    @property
    def pad_id(self) -> int:
        """Token that pads captions."""
        return self.dual.pad_id

    @property
    def patch_dropout(self) -> float:
        """Share of the patches that training passes leave out."""
        return self.dual.patch_dropout

    @property
    def text_dropout(self) -> float:
        """Rate of dropout in training passes of captions, in all layers that read words."""
        return self.dual.text_dropout

    @property
    def depth(self) -> int:
        """Number of blocks of the image tower."""
        return self.dual.depth

    @property
    def tpp_layer(self) -> int:
        """0-based block whose patch tokens the patch predictor reads."""
        return self.dual.tpp_layer

    @property
    def attention_input(self) -> int:
        """The last block but one of the image tower."""
        return self.dual.attention_input

    def embed_patches(self, params: Params, images: Array) -> Array:
        """Turn images (B, H, H, 3) into patch embeddings (B, N, C)."""
        return self.dual.embed_patches(params, images)

    def draw_kept(self, key: Array, batch: int) -> Array | None:
        """Draw the patches that a training pass keeps: int32 (B, K), or None without patch dropout."""
        return self.dual.draw_kept(key, batch)

    def encode_image(
        self,
        params: Params,
        patches: Array,
        *,
        kept: Array | None = None,
        blocks: Sequence[int] = (),
    ) -> ImageFeatures:
        """Run patch embeddings (B, N, C) through the image tower."""
        return self.dual.encode_image(params, patches, kept=kept, blocks=blocks)

    def encode_blocks(
        self, params: Params, patches: Array, blocks: Sequence[int]
    ) -> Mapping[int, Array]:
        """Return all tokens after each of `blocks`; later blocks do not run."""
        return self.dual.encode_blocks(params, patches, blocks)

    def patch_tokens(self, tokens: Array) -> Array:
        """Drop the [CLS] token if the tower has one."""
        return self.dual.patch_tokens(tokens)

    def encode_text(
        self,
        params: Params,
        tokens: Array,
        *,
        key: Array | None = None,
        words: ReplacedWords | None = None,
    ) -> TextFeatures:
        """Encode captions int32 (B, T), [CLS] first, of which `words` replaces some."""
        return self.dual.encode_text(params, tokens, key=key, words=words)

    def patches_to_words(self, params: Params, patches: Array) -> Array:
        """Project patches (..., C) of the stem to embeddings of words (..., Ct)."""
        return self.dual.patches_to_words(params, patches)

    def patch_logp(self, params: Params, site: Array, cls: Array) -> Array:
        """Map patch tokens (B, N, C) and caption vectors (B, Ct) to log-probabilities (B, N, 2)."""
        return self.dual.patch_logp(params, site, cls)

    def project_patches(self, params: Params, patches: Array) -> Array:
        """Project final patch tokens (B, N, C) into the shared space, (B, N, D) of unit norm."""
        return self.dual.project_patches(params, patches)

    def encode_single_patches(self, params: Params, patches: Array) -> Array:
        """Encode each of the patches (B, N, C) as an image of its own, (B, N, D) of unit norm."""
        return self.dual.encode_single_patches(params, patches)

    def cls_attention(self, params: Params, tokens: Array) -> Array:
        """Return the attention (B, N) of [CLS] in the last block of the image tower."""
        return self.dual.cls_attention(params, tokens)

    def temperature(self, params: Params) -> Array:
        """Return τ, a float32 scalar."""
        return self.dual.temperature(params)

    def logit_bias(self, params: Params) -> Array | None:
        """Return the learned bias of the logits; None for a model without one."""
        return self.dual.logit_bias(params)

    def constrain(self, params: Params) -> Params:
        """Clamp τ to its range after each update."""
        return self.dual.constrain(params)

    def for_evaluation(self) -> Self:
        """Return the model without microbatches."""
        return self._with_dual(self.dual.for_evaluation())

    def on_one_device(self) -> Self:
        """Return the model without a layout and without microbatches."""
        return self._with_dual(self.dual.on_one_device())

    def _with_dual(self, dual: DualEncoder) -> Self:
        return dataclasses.replace(self, dual=dual)  # type: ignore[type-var]
