"""The interface of a mixer: its input, its result, and helpers that mixers share."""

import functools
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from timix_jax.mixing.partners import Partners

Space = Literal["patches", "pixels", "none"]


class Sample(NamedTuple):
    """One global batch of image-text pairs, the input of a mixer.

    Attributes:
      image: patches (B, N, C) before position embeddings or, if the mixer's `space` is "pixels", pixels (B, H, W, 3),
        float in -1..1.
      tokens: (B, T) int32 captions: [CLS], words, [SEP], then `pad_id`; None if the caller has no captions.
      scores: (B, N) float, higher for patches that matter more to the caption; None unless the mixer needs them.
      pad_id: token id of padding.
      phrases: (B, T) int32 one phrase of each caption, in the form of `tokens`: what a partner's caption gains where
        captions are joined by phrases; None for whole captions.
      phrase_scores: (B, N) float, higher for patches that matter more to the phrase, by which the pasted window is
        chosen; None for `scores`.
    """

    image: jax.Array
    tokens: jax.Array | None = None
    scores: jax.Array | None = None
    pad_id: int = 0
    phrases: jax.Array | None = None
    phrase_scores: jax.Array | None = None


class Mixed(NamedTuple):
    """A mixed batch: the changed inputs, and the share of each caption in each image.

    With one partner per row, `partner` and `partner_weight` are (B,); with K partners per row they are (B, K).

    Attributes:
      image: mixed patches (B, N, C) or pixels (B, H, W, 3), like `Sample.image`; None if images do not change. With
        `kept` it may be (B, M·N, C), the patches of M images one after another, each at its position in its own image.
      partner: int32 (B,) or (B, K), π: row k took content from row π(k); if π(k) = k it took none.
      lam: (B,) float32 (float64 for float64 inputs or scores), λ, the weight of each row's own caption.
      partner_weight: weight of each partner's caption; None for 1 − λ, with one partner only. A row's weights need not
        add to 1.
      tokens: (B, T) int32 mixed captions, which the mixed images are compared with; None if captions do not change.
      apart: int32 (B,) or (B, K), rows that row k shares content with although no target says so: their captions are
        neither positives nor negatives of image k, nor their images of caption k. None: every other pair is compared.
      by_caption: bool (), True if captions are mixed and images are not: row k then holds the shares of the images
        k and π(k) in caption k. None: False.
      pasted: (B,) share of each image that comes from its partners, for the log; None if it is 1 − λ.
      kept: int32 (B, K) the patches that the image tower reads, each at its own position; None for all of them, or
        those that patch dropout keeps. Needs the space "patches" or "pixels".
      clean_kept: int32 (B, K) the same for rows that stay clean (`mix.fraction`), as indices of the patches of `image`.
        None: as `kept`.
      pasted_patches: (B, N) share of each patch that comes from the partner, for `LabelsByAttention`.
      low: (B, 2) int32, row and column (in patches) of the window that was overwritten, or None.
      high: (B, 2) int32, each row's most relevant window, or None; `high[partner]` was pasted.
      window: int32 (), the side of the windows in patches, or None.
    """

    image: jax.Array | None
    partner: jax.Array
    lam: jax.Array
    partner_weight: jax.Array | None = None
    tokens: jax.Array | None = None
    apart: jax.Array | None = None
    by_caption: jax.Array | None = None
    pasted: jax.Array | None = None
    kept: jax.Array | None = None
    clean_kept: jax.Array | None = None
    pasted_patches: jax.Array | None = None
    low: jax.Array | None = None
    high: jax.Array | None = None
    window: jax.Array | None = None


class Mixer(Protocol):
    """A pure function of a key and a batch; an implementation is a frozen dataclass of its settings.

    Its fields become `config.mix.options.NAME`; fields called `grid` and `shards` are filled in by `build_mixer`. A
    mixer of what the towers return also follows `MixesFeatures`, `MixesText` or `MixesNegatives`, one whose labels
    follow the mixed images' attention `LabelsByAttention`. Optional attributes: `composes_captions` is True if images
    and captions are one positive each, `scored_by` names the only score source that the mixer is defined for, and
    `mixes_whole_batch` is True if its targets hold only where every row is mixed, which needs the placement "extra".
    """

    @property
    def needs_scores(self) -> bool:
        """True for a mixer that reads `Sample.scores`."""

    @property
    def space(self) -> Space:
        """Form of images that it changes: "patches" (the stem's outputs), "pixels", or "none".

        With "none" it still receives patches, and the pass of the clean images is reused.
        """

    @property
    def partners(self) -> Partners:
        """The rule that made `Mixed.partner`; the loss uses it to exchange values between partners.

        `partners.ANY_PARTNERS` is correct for any π.
        """

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix the global batch."""


@runtime_checkable
class MixesFeatures(Protocol):
    """A mixer that changes the towers' embeddings."""

    def mix_features(
        self, mixed: Mixed, image: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mix the embeddings (B, D) of images and captions; inputs and results have unit norm."""


@runtime_checkable
class MixesText(Protocol):
    """A mixer that changes the captions' vectors between their projection and the L2 norm."""

    def mix_text(self, mixed: Mixed, text: jax.Array) -> jax.Array:
        """Mix projected captions (B, D) of any norm; the caller normalises the result."""


@runtime_checkable
class MixesNegatives(Protocol):
    """A mixer that makes other negatives: each image still has its own caption as its one positive."""

    @property
    def temperature(self) -> float:
        """τ of the loss with these negatives."""

    def mix_negatives(self, mixed: Mixed, image: jax.Array, text: jax.Array) -> jax.Array:
        """Return (B, D): row j takes the place of image j and of caption j wherever they are negatives."""


def mixes_embeddings(mixer: Mixer) -> bool:
    """Return True for a mixer of what the towers return."""
    return isinstance(mixer, MixesFeatures | MixesText | MixesNegatives)


def composes_captions(mixer: Mixer) -> bool:
    """Return True for a mixer whose mixed image and mixed caption are one positive pair."""
    return getattr(mixer, "composes_captions", False)


@runtime_checkable
class LabelsByAttention(Protocol):
    """A mixer whose labels depend on what the image tower attends to in the mixed images (TransMix)."""

    def relabel(self, mixed: Mixed, attention: jax.Array) -> Mixed:
        """Return the batch with weights by the attention (B, N) of [CLS] to the mixed images' patches, a constant."""


def lambda_dtype(*inputs: jax.Array) -> jnp.dtype:
    """Return the dtype of λ: float32, or float64 if an input is float64 (or an integer under JAX's x64 mode)."""
    floating = [x.dtype for x in inputs if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(
        jnp.promote_types, floating or [jnp.result_type(float)], jnp.dtype(jnp.float32)
    )


def area_lambda(r: jax.Array | int, grid: int, partner: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return λ = 1 − r²/g² (B,), the share that stays (docs/method.md §3); 1 if a row is its own partner."""
    pasted = jnp.square(jnp.asarray(r, dtype) / grid)
    return jnp.where(is_self_partner(partner), jnp.ones((), dtype), 1 - pasted)


def pasted_window(low: jax.Array, high_of_partner: jax.Array, partner: jax.Array) -> jax.Array:
    """Return the window to paste from, (B, 2).

    A row that is its own partner pastes its low window onto itself, so it does not change.
    """
    return jnp.where(is_self_partner(partner)[:, None], low, high_of_partner)


def is_self_partner(partner: jax.Array) -> jax.Array:
    """Return (B,) bool: True for rows that are their own partner, which do not change and have λ = 1."""
    return partner == jnp.arange(partner.shape[0], dtype=partner.dtype)
