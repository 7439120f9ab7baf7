"""Greedy decoding and beam search over a step function, as one compiled loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.decoding.length_penalty import LengthPenalty
from timix_jax.errors import UserError

Array = jax.Array
Cache = Any

Step = Callable[[Array, Array, Cache], tuple[Array, Cache]]
"""Maps tokens int32 (B, K), their position (a scalar, 0 for the start) and the cache to the logits (B, K, V) of the
next tokens and the cache with these tokens."""


class Found(NamedTuple):
    """The hypotheses of each row, best first.

    Attributes:
      tokens: int32 (B, K, T) without the start; the end token if there is one, then padding.
      score: float32 (B, K) log-probability over length penalty; -inf for a missing hypothesis.
      logp: float32 (B, K) log-probability, that of the end token included.
    """

    tokens: Array
    score: Array
    logp: Array


class _State(NamedTuple):
    step: Array  # tokens that alive hypotheses have
    tokens: Array  # (B, K, T)
    logp: Array  # (B, K)
    cache: Cache
    done: Found


@dataclass(frozen=True)
class Search:
    """Beam search; with one beam, greedy decoding.

    Each step extends K alive hypotheses by every token. A candidate with the end token joins the finished set if it is
    among the K best; the K best others stay alive, so that nothing ever follows an end. The search stops once no alive
    hypothesis can beat the K-th finished one; those still alive at the full length count as finished. Rows do not
    depend on each other.

    Attributes:
      start, end, pad: tokens; hypotheses begin after `start`.
      beams: K.
      max_tokens: T, the longest hypothesis, the end token included.
      min_tokens: shortest hypothesis, the end token included.
      penalty: ranks finished hypotheses; has no effect on one beam.
      banned: further tokens that never occur, such as the mask; `start` and `pad` never do. The end always may.
      cache_axis: axis of B in every leaf of the cache; K is the next one.

    **Example:**

        search = Search(start=2, end=3, pad=0, beams=3, max_tokens=20)
        found = jax.jit(lambda cache: search(step, cache, rows=8))(cache)
        found.tokens[:, 0]  # (8, 20) the best ones
    """

    start: int
    end: int
    pad: int
    beams: int = 3
    max_tokens: int = 20
    min_tokens: int = 1
    penalty: LengthPenalty = field(default_factory=LengthPenalty)
    banned: Sequence[int] = ()
    cache_axis: int = 0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise UserError(f"beams={self.beams}: use 1 (greedy) or more")
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise UserError(
                f"min_tokens={self.min_tokens}, max_tokens={self.max_tokens}: use 1 ≤ min_tokens ≤ max_tokens"
            )

    def __call__(self, step: Step, cache: Cache, *, rows: int) -> Found:
        """Search for `rows` rows; a pure function for use under jit.

        Args:
          step: see `Step`; it may close over what all steps share, such as the keys and values of an image.
          cache: what `step` keeps between calls, in leaves (..., B, K, ...) with equal values for the K beams.
          rows: B.
        """
        shape = (rows, self.beams)
        nothing = jnp.full(shape, -jnp.inf, jnp.float32)
        empty = jnp.full((*shape, self.max_tokens), self.pad, jnp.int32)
        state = _State(
            jnp.zeros((), jnp.int32),
            empty,
            nothing.at[:, 0].set(
                0
            ),  # the beams are equal at first: only one of them may be extended
            cache,
            Found(empty, nothing, nothing),
        )
        table = self._penalties
        state = lax.while_loop(self._goes_on, lambda state: self._extend(step, table, state), state)
        alive = Found(state.tokens, state.logp / table[self.max_tokens], state.logp)
        unfinished = jnp.where(state.step == self.max_tokens, alive.score, -jnp.inf)
        return self._best(state.done, alive._replace(score=unfinished))

    @property
    def _penalties(self) -> Array:
        penalty = self.penalty if self.beams > 1 else LengthPenalty("none")
        return penalty.table(self.max_tokens)

    def _goes_on(self, state: _State) -> Array:
        """Return True unless no alive hypothesis of any row can still beat the worst finished one."""
        lengths = jnp.arange(self.max_tokens + 1)
        # A log-probability only falls, so that the largest divisor still ahead bounds the score.
        ahead = jnp.max(jnp.where(lengths > state.step, self._penalties, 0))
        open_rows = jnp.max(state.logp, axis=1) / ahead > jnp.min(state.done.score, axis=1)
        return (state.step < self.max_tokens) & jnp.any(open_rows)

    def _extend(self, step: Step, table: Array, state: _State) -> _State:
        rows, beams, _ = state.tokens.shape
        at = state.step
        before = lax.dynamic_index_in_dim(state.tokens, jnp.maximum(at - 1, 0), 2, keepdims=False)
        last = jnp.where(at == 0, self.start, before)
        logits, cache = step(last, at, state.cache)
        logp = jax.nn.log_softmax(logits.astype(jnp.float32))
        vocabulary = logp.shape[-1]
        ids = jnp.arange(vocabulary)
        forbidden = jnp.isin(ids, jnp.asarray([self.start, self.pad, *self.banned]))
        forbidden &= ids != self.end  # some vocabularies start, end or pad with the same token
        forbidden |= (ids == self.end) & (at + 1 < self.min_tokens)
        total = state.logp[..., None] + jnp.where(forbidden, -jnp.inf, logp)

        # At most K of 2K candidates end: each beam has one end token.
        best, flat = lax.top_k(total.reshape(rows, -1), min(2 * beams, beams * vocabulary))
        parent, token = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
        tokens = jnp.take_along_axis(state.tokens, parent[..., None], axis=1)
        tokens = jnp.where(jnp.arange(self.max_tokens) == at, token[..., None], tokens)
        ends = token == self.end

        finished = ends & (jnp.arange(best.shape[1]) < beams)
        score = jnp.where(finished, best / table[at + 1], -jnp.inf)
        done = self._best(state.done, Found(tokens, score, best))
        logp, chosen = lax.top_k(jnp.where(ends, -jnp.inf, best), beams)
        tokens = jnp.take_along_axis(tokens, chosen[..., None], axis=1)
        parent = jnp.take_along_axis(parent, chosen, axis=1)
        if beams > 1:
            cache = jax.tree.map(lambda leaf: self._reordered(leaf, parent), cache)
        return _State(at + 1, tokens, logp, cache, done)

    def _best(self, done: Found, more: Found) -> Found:
        """Return the K best of both, the finished ones first where scores are equal; missing ones are padding."""
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), done, more)
        score, chosen = lax.top_k(both.score, self.beams)
        missing = jnp.isneginf(score)
        tokens = jnp.take_along_axis(both.tokens, chosen[..., None], axis=1)
        logp = jnp.take_along_axis(both.logp, chosen, axis=1)
        return Found(
            jnp.where(missing[..., None], self.pad, tokens),
            score,
            jnp.where(missing, -jnp.inf, logp),
        )

    def _reordered(self, leaf: Array, parent: Array) -> Array:
        """Give each beam the cache of the hypothesis that it extends."""
        axis = self.cache_axis
        shape = [1] * leaf.ndim
        shape[axis : axis + 2] = parent.shape
        return jnp.take_along_axis(leaf, parent.reshape(shape), axis=axis + 1)
