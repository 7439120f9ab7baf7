"""The dual encoder: image tower, text tower and patch predictor as pure functions over one parameter tree."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.axes import axes_of, unbox
from timix_jax.models.dropout import Dropout
from timix_jax.models.dual_encoder_checks import check_dual_encoder
from timix_jax.models.layers import unit_norm
from timix_jax.models.microbatches import in_microbatches
from timix_jax.models.patch_dropout import draw_kept
from timix_jax.models.patch_predictor import PatchPredictor
from timix_jax.models.protocols import (
    ImageFeatures,
    ImageTextModel,
    Params,
    ReplacedWords,
    TextFeatures,
)
from timix_jax.models.text import TextShape, TextTransformer
from timix_jax.models.transformer import Remat
from timix_jax.models.variants import BERT, VIT, ImagePool, ImageVariant, TextVariant
from timix_jax.models.vit import VisionTransformer, VitShape, cls_attention
from timix_jax.models.word_projection import WordProjection
from timix_jax.parallel.layout import Layout

Array = jax.Array


@dataclass(frozen=True)
class DualEncoder(ImageTextModel):
    """CLIP-like model with a text-aware patch predictor (docs/method.md §1).

    Attributes:
      image: shape of the ViT.
      text: shape of the text transformer.
      embed_dim: width D of the shared space.
      tpp_layer: 0-based ViT block whose patch tokens the predictor reads.
      pool: the image's vector: the [CLS] token (`cls`), the mean of the patches (`gap`), or what a learned query reads
        from them (`map`).
      patch_dropout: share of the patches that training passes leave out (`draw_kept`); scores, patch labels and
        evaluations see all patches.
      text_dropout: rate of dropout in BERT's places of the text tower; training passes alone drop.
      text_pre_norm: norm before each sublayer of the text tower; False for BERT's order.
      pad_id, eot_id: tokens that pad and that end captions; `eot_id` is needed to pool captions there.
      temperature_init: τ at the start.
      temperature_range: τ is clamped to this range after each update.
      logit_bias_init: start of the learned bias that the sigmoid loss needs; None for no bias.
      word_projection: has the parameters of `patches_to_words`.
      act: activation of the MLPs, unless the variant of a tower names another.
      image_variant, text_variant: what towers of published weights need.
      dtype: of the computation; parameters are float32.
      scan: run the blocks as one compiled loop.
      remat: what the backward pass recomputes.
      layout: the mesh over which parameters are split; they are gathered where they are used. None for one device.
      microbatches: number of parts of the batch that pass through the towers one after the other. No part's
        activations are kept, and the gradient is that of the whole batch, since the loss sees all embeddings at once.

    **Example:**

      model = DualEncoder(VitShape(64, 8, 128, 4, 4, 512), TextShape(1000, 16, 128, 2, 4, 512))
      params = model.init(jax.random.key(0))
      image = model.encode_image(params, model.embed_patches(params, images))
      text = model.encode_text(params, tokens)
      logits = image.embedding @ text.embedding.T / model.temperature(params)
    """

    image: VitShape
    text: TextShape
    embed_dim: int = 256
    tpp_layer: int = 5
    pool: ImagePool = "cls"
    patch_dropout: float = 0.0
    text_dropout: float = 0.0
    text_pre_norm: bool = False
    pad_id: int = 0
    temperature_init: float = 0.07
    temperature_range: tuple[float, float] = (0.001, 0.5)
    logit_bias_init: float | None = None
    word_projection: bool = False
    act: str = "gelu"
    dtype: Any = jnp.float32
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None
    microbatches: int = 1
    image_variant: ImageVariant = VIT
    text_variant: TextVariant = BERT
    eot_id: int = -1

    def __post_init__(self) -> None:
        """Refuse shapes that cannot work before anything is compiled."""
        check_dual_encoder(self)

    @property
    def grid(self) -> int:
        """g, patches per side."""
        return self.image.grid

    @property
    def _vit(self) -> VisionTransformer:
        how = self.act, self.dtype, self.scan, self.remat, self.layout
        return VisionTransformer(self.image, self.embed_dim, self.pool, *how, self.image_variant)

    @property
    def _text(self) -> TextTransformer:
        pre_norm = self.text_pre_norm
        how = self.pad_id, pre_norm, self.act, self.dtype, self.scan, self.remat, self.layout
        return TextTransformer(self.text, self.embed_dim, *how, self.text_variant, self.eot_id)

    @property
    def _to_words(self) -> WordProjection:
        return WordProjection(self.text.width, self.dtype)

    def _apply(
        self, part: str, module: nn.Module, params: Params, *args: Any, **options: Any
    ) -> Any:
        """Apply a module to `params[part]`; a stack of blocks gathers its own layers."""
        own = params[part]
        if self.layout is not None:
            outside = {name: leaf for name, leaf in own.items() if name != "blocks"}
            own = {**own, **self.layout.gather(outside, part)}
        return module.apply({"params": own}, *args, **options)

    def _split(self, function: Callable[..., Any], *arrays: Any) -> Any:
        return in_microbatches(function, *arrays, count=self.microbatches, layout=self.layout)

    def init(self, key: Array) -> Params:
        """Return fresh float32 parameters: image, text, patch_predictor, log_temperature, and what else is used."""
        return unbox(self._declared_init(key))

    def parameter_axes(self) -> Any:
        """Return the declared `Axes` of each parameter, in a tree with the structure of the parameters."""
        return axes_of(_declared(self.on_one_device()))

    def _declared_init(self, key: Array) -> Params:
        k_image, k_text, k_predictor = jax.random.split(key, 3)
        tokens = jnp.zeros((1, self.text.max_tokens), jnp.int32)
        h = jnp.zeros((1, self.grid**2, self.image.width))
        c = jnp.zeros((1, self.text.width))
        vit = self._vit
        bias = self.logit_bias_init
        optional = {} if bias is None else {"logit_bias": jnp.asarray(bias, jnp.float32)}
        if self.word_projection:
            k_words = jax.random.fold_in(key, 3)
            optional["word_projection"] = self._to_words.init(k_words, h)["params"]
        return {
            "image": vit.init(k_image, method=vit.initialise)["params"],
            "text": self._text.init(k_text, tokens)["params"],
            "patch_predictor": PatchPredictor(self.dtype).init(k_predictor, h, c)["params"],
            "log_temperature": jnp.asarray(math.log(self.temperature_init), jnp.float32),
            **optional,
        }

    def embed_patches(self, params: Params, images: Array) -> Array:
        """Turn images (B, H, H, 3), uint8 or float in -1..1, into patch embeddings (B, N, C) without positions."""
        embed = functools.partial(self._apply, "image", self._vit, params, method="embed_patches")
        return self._split(embed, images)

    def draw_kept(self, key: Array, batch: int) -> Array | None:
        """Draw the patches that a training pass keeps: int32 (B, K), or None without patch dropout."""
        if not self.patch_dropout:
            return None
        return draw_kept(key, batch, self.grid**2, self.patch_dropout)

    def encode_image(
        self,
        params: Params,
        patches: Array,
        *,
        kept: Array | None = None,
        blocks: Sequence[int] = (),
    ) -> ImageFeatures:
        """Run patch embeddings (B, N, C), or only those of `kept` (B, K), of one or more images, through the tower.

        The features hold all tokens after each of `blocks`, as `encode_blocks` returns them.
        """

        def encode(*arrays: Array) -> ImageFeatures:
            vit = functools.partial(self._apply, "image", self._vit, params)
            pooled, tokens, patches, captured = vit(*arrays, blocks=tuple(blocks))
            return ImageFeatures(unit_norm(pooled), tokens, patches, captured)

        return self._split(encode, *([patches] if kept is None else [patches, kept]))

    def encode_blocks(
        self, params: Params, patches: Array, blocks: Sequence[int]
    ) -> dict[int, Array]:
        """Return all tokens (B, N+prefix, C) after each of `blocks`; later blocks do not run."""
        run = functools.partial(self._apply, "image", self._vit, params)
        return self._split(lambda x: run(x, blocks=tuple(blocks), method="run_blocks"), patches)

    def patch_tokens(self, tokens: Array) -> Array:
        """Drop the [CLS] token if the tower has one."""
        return tokens[:, 1:] if self.pool == "cls" else tokens

    def encode_text(
        self,
        params: Params,
        tokens: Array,
        *,
        key: Array | None = None,
        words: ReplacedWords | None = None,
    ) -> TextFeatures:
        """Encode captions int32 (B, T), [CLS] first; `words` replaces some, and `key` draws what dropout drops."""

        def encode(*inputs: Any) -> TextFeatures:
            projected, pooled, hidden, mask = self._apply("text", self._text, params, *inputs)
            return TextFeatures(unit_norm(projected), pooled, hidden, mask, projected)

        dropout = Dropout.of_rows(key, tokens.shape[0], self.text_dropout)
        return self._split(encode, tokens, dropout, words)

    def patches_to_words(self, params: Params, patches: Array) -> Array:
        """Project patches (..., C) of the stem to embeddings of words (..., Ct)."""
        return self._apply("word_projection", self._to_words, params, patches)

    def patch_logp(self, params: Params, site: Array, cls: Array) -> Array:
        """Map patch tokens (B, N, C) and caption vectors (B, Ct) to log-probabilities (B, N, 2) (docs/method.md §1)."""
        predict = functools.partial(
            self._apply, "patch_predictor", PatchPredictor(self.dtype), params
        )
        return self._split(predict, site, cls)

    def project_patches(self, params: Params, patches: Array) -> Array:
        """Project final patch tokens (B, N, C) into the shared space, (B, N, D) of unit norm."""
        return unit_norm(self._apply("image", self._vit, params, patches, method="project"))

    def encode_single_patches(self, params: Params, patches: Array) -> Array:
        """Encode each of the patches (B, N, C) as an image of its own, (B, N, D) of unit norm."""
        run = functools.partial(self._apply, "image", self._vit, params)
        return self._split(lambda x: unit_norm(run(x, method="encode_single")), patches)

    @property
    def depth(self) -> int:
        """Number of blocks of the image tower."""
        return self.image.depth

    @property
    def attention_input(self) -> int:
        """The last block but one, whose tokens `cls_attention` reads.

        Raises:
          UserError: the tower has no [CLS] token.
        """
        if self.pool != "cls":
            raise UserError(
                "the attention of [CLS] (mix.score='attention', mix.mixer='transmix') needs a CLS token: set"
                " model.image.pool='cls'"
            )
        return self.image.depth - 2

    def cls_attention(self, params: Params, tokens: Array) -> Array:
        """Return the attention (B, N) of [CLS] in the last block, given its input tokens (B, N+1, C)."""
        _ = self.attention_input
        last = jax.tree.map(lambda p: p[-1], params["image"]["blocks"]["layers"])
        if self.layout is not None:
            scope = "image/blocks/layers"
            last = self.layout.gather(last, scope, layers=self.image.depth)
        eps = self.image_variant.eps or 1e-6
        return cls_attention(last, tokens, heads=self.image.heads, eps=eps)

    def temperature(self, params: Params) -> Array:
        """Return τ, a float32 scalar."""
        return jnp.exp(params["log_temperature"])

    def logit_bias(self, params: Params) -> Array | None:
        """Return the learned bias of the logits, a float32 scalar; None for a model without one."""
        return params["logit_bias"] if self.logit_bias_init is not None else None

    def for_evaluation(self) -> "DualEncoder":
        """Return the model without microbatches, since an evaluation keeps no activations."""
        return dataclasses.replace(self, microbatches=1)

    def on_one_device(self) -> "DualEncoder":
        """Return the model without a layout and without microbatches."""
        return dataclasses.replace(self, layout=None, microbatches=1)

    def constrain(self, params: Params) -> Params:
        """Clamp τ to its range after each update, so that its gradient does not vanish."""
        low, high = (math.log(t) for t in self.temperature_range)
        return {**params, "log_temperature": jnp.clip(params["log_temperature"], low, high)}


@functools.lru_cache(maxsize=16)
def _declared(model: DualEncoder) -> Any:
    """Return the shapes of the parameters with their axes; a trace takes seconds and is needed more than once."""
    return jax.eval_shape(model._declared_init, jax.random.key(0))
