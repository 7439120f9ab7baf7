"""What makes texts of different lengths comparable."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError

Array = jax.Array

PENALTIES: dict[str, Callable[[Array, float], Array]] = {
    "none": lambda length, alpha: jnp.ones_like(length),
    "power": lambda length, alpha: length**alpha,
    "gnmt": lambda length, alpha: ((5 + length) / 6) ** alpha,
}
"""Formula by name: what the log-probability of a text of so many tokens, the last one included, is divided by."""


@dataclass(frozen=True)
class LengthPenalty:
    """The divisor of a text's log-probability, by which hypotheses are ranked.

    Attributes:
      formula: `none` (the log-probability itself), `power` (lengthᵅ; α = 1 is the mean over tokens, as in BLIP) or
        `gnmt` (((5 + length)/6)ᵅ, Wu et al. 2016, as in mPLUG).
      alpha: α; above 0 it favours long texts.
    """

    formula: str = "gnmt"
    alpha: float = 0.6

    def __post_init__(self) -> None:
        if self.formula not in PENALTIES:
            known = ", ".join(map(repr, PENALTIES))
            raise UserError(f"length_penalty={self.formula!r} is unknown; use one of {known}")

    def table(self, max_tokens: int) -> Array:
        """Return the divisors of texts of 0 to `max_tokens` tokens, float32 (max_tokens + 1,); that of 0 is unused."""
        lengths = jnp.maximum(jnp.arange(max_tokens + 1, dtype=jnp.float32), 1)
        return PENALTIES[self.formula](lengths, self.alpha)
