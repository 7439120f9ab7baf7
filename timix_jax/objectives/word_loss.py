"""Cross-entropy over the vocabulary at some positions of captions, in parts that fit into memory."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Logits = Callable[[Array], Array]


class WordLoss(NamedTuple):
    """Sums over the counted positions of the global batch; a mean of means would weigh short captions more.

    Attributes:
      loss: Σ cross-entropy against the targets.
      hard: Σ cross-entropy against the words alone, of which exp(mean) is the perplexity.
      hits: Σ of positions at which the likeliest word is the right one.
      count: number of counted positions.
    """

    loss: Array
    hard: Array
    hits: Array
    count: Array  # type: ignore[assignment]

    def mean(self) -> Array:
        """Return the loss per counted position; 0 without any."""
        return self.loss / jnp.maximum(self.count, 1)


def word_loss(
    logits: Logits,
    states: Array,
    labels: Array,
    counted: Array,
    *,
    alpha: Array | float = 0.0,
    teacher: tuple[Logits, Array] | None = None,
    chunk: int = 0,
) -> WordLoss:
    """Return (1−α)·CE(word) + α·CE(teacher's softmax over the vocabulary), summed over positions.

    Args:
      logits: maps states (..., C) to logits (..., V).
      states: (B, P, C) at the positions.
      labels: int32 (B, P) the right words.
      counted: (B, P) bool, False for positions that do not count.
      alpha: weight of the teacher.
      teacher: its logits and its states (B, P, C), constants; None for no teacher.
      chunk: positions per caption whose logits exist at a time; 0 for all. The backward pass computes them again.
    """
    seen = None if teacher is None else teacher[1]

    def part(
        states: Array, labels: Array, counted: Array, teacher_states: Array | None
    ) -> WordLoss:
        logp = jax.nn.log_softmax(logits(states))
        hard = -jnp.take_along_axis(logp, labels[..., None], axis=-1)[..., 0]
        loss = hard
        if teacher is not None and teacher_states is not None:
            # The last axis is the vocabulary: the teacher's probabilities add to 1 at each position.
            target = jax.lax.stop_gradient(jax.nn.softmax(teacher[0](teacher_states)))
            loss = (1 - alpha) * hard - alpha * jnp.sum(target * logp, axis=-1)
        hits = (jnp.argmax(logp, axis=-1) == labels) & counted
        total = lambda x: jnp.sum(jnp.where(counted, x, 0))
        return WordLoss(total(loss), total(hard), jnp.sum(hits), jnp.sum(counted))

    positions = labels.shape[1]
    if not 0 < chunk < positions:
        return part(states, labels, counted, seen)
    starts = range(0, positions, chunk)
    again = jax.checkpoint(part)
    parts = [
        again(*jax.tree.map(lambda x, s=s: x[:, s : s + chunk], (states, labels, counted, seen)))
        for s in starts
    ]
    return jax.tree.map(lambda *sums: sum(sums[1:], start=sums[0]), *parts)
