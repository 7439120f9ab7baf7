"""What a mixer takes and gives."""

import functools
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from timix_jax.mixing.partners import Partners

Space = Literal["patches", "pixels", "none"]


class Sample(NamedTuple):
    """What a mixer is given: one global batch of pairs.

    Attributes:
      image: patches (B, N, C) before position embeddings, or pixels (B, H, W, 3) float in -1..1, by the mixer's
        `space`.
      tokens: (B, T) int32 captions, [CLS] first, [SEP] last, then padding with `pad_id`; None where a caller has none.
      scores: (B, N) float, the higher, the more relevant to the caption; None unless the mixer needs them.
      pad_id: the id of padding.
    """

    image: jax.Array
    tokens: jax.Array | None = None
    scores: jax.Array | None = None
    pad_id: int = 0


class Mixed(NamedTuple):
    """A mixed batch: what has changed, and what it shows of whose caption.

    A mixer with one partner gives `partner` as (B,), one with K partners as (B, K); `partner_weight` has that shape.

    Attributes:
      image: patches (B, N, C) or pixels (B, H, W, 3), as given; None where images stay as they are.
      partner: int32 (B,) or (B, K), π: row k took content from row π(k); π(k) = k means that it took none.
      lam: (B,) float32 (float64 for float64 inputs or scores), λ: the weight of the row's own caption.
      partner_weight: weight of the partner's caption, or of each partner's; None for 1 − λ. The weights of a row
        need not add to 1.
      tokens: (B, T) int32 mixed captions, which the mixed images are then compared with; None where captions stay.
      kept: int32 (B, K) the patches that the image tower reads, each at its own position; None for all of them (or
        those that patch dropout leaves).
      low: (B, 2) int32, row and column (in patches) of the window that was overwritten, or None.
      high: (B, 2) int32, each row's own best window; `high[partner]` is what was pasted; or None.
      window: int32 (), the side of the windows in patches, or None.
    """

    image: jax.Array | None
    partner: jax.Array
    lam: jax.Array
    partner_weight: jax.Array | None = None
    tokens: jax.Array | None = None
    kept: jax.Array | None = None
    low: jax.Array | None = None
    high: jax.Array | None = None
    window: jax.Array | None = None


class Mixer(Protocol):
    """A pure function of a key and a batch; implemented by frozen dataclasses of settings.

    Its fields become `config.mix.options.NAME`. A mixer of pooled features has a method
    `mix_features(mixed, image, text)` too (`MixesFeatures`).
    """

    @property
    def needs_scores(self) -> bool:
        """True for a mixer that reads `Sample.scores`."""

    @property
    def space(self) -> Space:
        """What it changes of images: "patches" (outputs of the stem), "pixels", or "none" (it is given patches)."""

    @property
    def partners(self) -> Partners:
        """The rule that makes `Mixed.partner`, by which the loss exchanges values between partners.

        `partners.ANY_PARTNERS` is right for any π.
        """

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix the global batch."""


@runtime_checkable
class MixesFeatures(Protocol):
    """A mixer that changes the towers' outputs, too."""

    def mix_features(
        self, mixed: Mixed, image: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mix the embeddings (B, D) of images and of captions, unit norm both before and after."""


def lambda_dtype(*inputs: jax.Array) -> jnp.dtype:
    """Type of λ: float32; float64 where an input is, or for integers where JAX is set to it."""
    floating = [x.dtype for x in inputs if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(jnp.promote_types, floating or [jnp.result_type(float)], jnp.float32)


def area_lambda(r: jax.Array | int, grid: int, partner: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """λ = 1 − r²/g², (B,), the share that stays (docs/method.md §3); 1 where a row is its own partner."""
    pasted = jnp.square(jnp.asarray(r, dtype) / grid)
    return jnp.where(is_self_partner(partner), jnp.ones((), dtype), 1 - pasted)


def pasted_window(low: jax.Array, high_of_partner: jax.Array, partner: jax.Array) -> jax.Array:
    """The window to paste from, (B, 2).

    A row that is its own partner copies its low window onto itself, so that it stays whole.
    """
    return jnp.where(is_self_partner(partner)[:, None], low, high_of_partner)


def is_self_partner(partner: jax.Array) -> jax.Array:
    """(B,) bool: the rows that are their own partner, which stay whole with λ = 1."""
    return partner == jnp.arange(partner.shape[0], dtype=partner.dtype)
