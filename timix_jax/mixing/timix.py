"""TiMix: the partner's most relevant window overwrites the target's least relevant one (docs/method.md §3)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, area_lambda, lambda_dtype, pasted_window
from timix_jax.mixing.partners import Paired
from timix_jax.mixing.relevance import (
    LambdaBy,
    by_relevance,
    check_lambda_by,
    relevance_weights,
    visible_mass,
    weights_by_area,
)
from timix_jax.mixing.windows import draw_window, extreme_windows, paste_windows, window_bounds


@dataclasses.dataclass(frozen=True)
class TiMix(Paired):
    """Text-aware mixing of patch embeddings, which equals mixing pixels.

    Attributes:
      grid: patches per side, g.
      low, high: smallest and largest side of the window, as shares of the image's side.
      partner, within_shard, shards: how rows are paired (`partners.Paired`).
      lambda_by: what weighs the captions: "area"; relevance "mass", kept and pasted, as shares of both; "visible", the
        kept mass of the own caption and the pasted mass of the partner's, which need not add to 1; or "own", λ = 1.

    Raises:
      UserError: a setting is out of range.

    **Example:**

        mixed = TiMix(grid=14)(jax.random.key(0), Sample(patches, scores=scores))  # (B, 196, C), (B, 196)
    """

    grid: int
    low: float = 0.35
    high: float = 0.75
    lambda_by: LambdaBy = "area"

    needs_scores: ClassVar[bool] = True
    space: ClassVar[Space] = "patches"

    def __post_init__(self) -> None:
        window_bounds(self.grid, self.low, self.high)
        super().__post_init__()
        check_lambda_by(self.lambda_by)

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Draw one window size and the partners, then `mix`.

        Args:
          key: key of the global batch.
          sample: patches of any dtype, and scores.
        """
        if sample.scores is None:
            raise UserError("TiMix needs patch scores: set config.mix.score, or use random_window")
        window_key, partner_key = jax.random.split(key)
        r = draw_window(window_key, self.grid, self.low, self.high)
        partner = self.partners.draw(partner_key, len(sample.image), sample.tokens)
        return self.mix(sample.image, sample.scores, partner, r, sample.phrase_scores)

    def mix(
        self,
        inputs: jax.Array,
        scores: jax.Array,
        partner: jax.Array,
        r: jax.Array | int,
        pasted_scores: jax.Array | None = None,
    ) -> Mixed:
        """Mix with given partners (B,), which follow this mixer's rule, and side r ().

        Traced partners and sides are not checked. `pasted_scores` choose the windows that are pasted, by default
        `scores`, which choose those that are overwritten.

        Raises:
          UserError: the partners do not follow the rule "flip".
          ValueError: the side is outside this mixer's bounds.
        """
        bounds = window_bounds(self.grid, self.low, self.high)
        self.partners.check(partner)
        low, high = extreme_windows(scores, r, self.grid, bounds)
        if pasted_scores is not None:
            _, high = extreme_windows(pasted_scores, r, self.grid, bounds)
        partner_high = self.partners.take(high, partner)
        mixed = paste_windows(
            inputs,
            self.partners.take(inputs, partner),
            low,
            pasted_window(low, partner_high, partner),
            r,
            self.grid,
        )
        dtype = lambda_dtype(inputs, scores)
        area = area_lambda(r, self.grid, partner, dtype)
        weights = weights_by_area(self.lambda_by, area)
        if by_relevance(self.lambda_by):
            visible = visible_mass(scores, low, high, partner, r, self.grid, self.partners)
            weights = relevance_weights(self.lambda_by, *visible, dtype)
        return Mixed(
            mixed,
            partner,
            weights.lam,
            weights.partner,
            pasted=1 - area,
            low=low,
            high=high,
            window=jnp.asarray(r, jnp.int32),
        )
