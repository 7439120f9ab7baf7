"""Aligned CutMix: TiMix's windows and λ at random places, the baseline that TiMix must beat."""

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
from timix_jax.mixing.windows import draw_window, paste_windows, window_bounds


@dataclasses.dataclass(frozen=True)
class RandomWindow(Paired):
    """Patch-aligned windows of one size at uniform places, drawn independently for target and partner.

    Attributes:
      grid: patches per side, g.
      low, high: smallest and largest side of the window, as shares of the image's side.
      lambda_by: what weighs the captions, as of `TiMix`: "mass" and "visible" need scores.
      partner, within_shard, shards: how rows are paired (`partners.Paired`).

    Raises:
      UserError: a setting is out of range.
    """

    grid: int
    low: float = 0.35
    high: float = 0.75
    lambda_by: LambdaBy = "area"

    space: ClassVar[Space] = "patches"

    def __post_init__(self) -> None:
        window_bounds(self.grid, self.low, self.high)
        super().__post_init__()
        check_lambda_by(self.lambda_by)

    @property
    def needs_scores(self) -> bool:
        """True if relevance weighs the captions; windows never depend on it."""
        return by_relevance(self.lambda_by)

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix (B, N, C) patches."""
        inputs = sample.image
        batch = inputs.shape[0]
        window_key, partner_key, low_key, high_key = jax.random.split(key, 4)
        r = draw_window(window_key, self.grid, self.low, self.high)
        partner = self.partners.draw(partner_key, batch, sample.tokens)
        low, high = (
            jax.random.randint(place_key, (batch, 2), 0, self.grid - r + 1, dtype=jnp.int32)
            for place_key in (low_key, high_key)
        )
        partner_high = self.partners.take(high, partner)
        mixed = paste_windows(
            inputs,
            self.partners.take(inputs, partner),
            low,
            pasted_window(low, partner_high, partner),
            r,
            self.grid,
        )
        area = area_lambda(r, self.grid, partner, lambda_dtype(inputs))
        weights = weights_by_area(self.lambda_by, area)
        if self.needs_scores:
            if sample.scores is None:
                raise UserError(f"lambda_by={self.lambda_by!r} needs patch scores: set mix.score")
            visible = visible_mass(sample.scores, low, high, partner, r, self.grid, self.partners)
            weights = relevance_weights(self.lambda_by, *visible, area.dtype)
        return Mixed(
            mixed,
            partner,
            weights.lam,
            weights.partner,
            pasted=1 - area,
            low=low,
            high=high,
            window=r,
        )
