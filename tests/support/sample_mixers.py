"""Mixers of the kinds that rival methods need; none is in the package, and each takes one line to register."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing import Mixed, Sample
from timix_jax.mixing.base import Space
from timix_jax.mixing.partners import ANY_PARTNERS, Paired, Partners


@dataclasses.dataclass(frozen=True)
class JoinedCaptions(Paired):
    """The left part of each image next to the right part of its partner's, with both captions in one.

    The joined caption `[CLS] a… [SEP] b… [SEP]`, cut to T tokens, is the one positive.

    Attributes:
      left: share of the image's width that stays.
    """

    left: float = 0.5

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "pixels"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        image, tokens = sample.image, sample.tokens
        assert tokens is not None
        batch, max_tokens = tokens.shape
        partner = self.partners.draw(key, batch)
        stays = jnp.arange(image.shape[2]) < round(self.left * image.shape[2])
        others = self.partners.take(image, partner)
        # The partner's caption follows without its [CLS].
        column = jnp.arange(max_tokens)
        length = jnp.sum(tokens != sample.pad_id, axis=1, keepdims=True)
        source = jnp.clip(column - length + 1, 0, max_tokens - 1)
        following = jnp.take_along_axis(self.partners.take(tokens, partner), source, axis=1)
        return Mixed(
            image=jnp.where(stays[:, None], image, others),
            partner=partner,
            lam=jnp.ones(batch),
            partner_weight=jnp.zeros(batch),
            tokens=jnp.where(column < length, tokens, following),
        )


@dataclasses.dataclass(frozen=True)
class Quadrants:
    """Four quadrants: the row's own and one of each of the next three rows.

    Attributes:
      grid: patches per side.
      own: weight of the row's own caption.
      others: weights of the partners' captions; all four weights need not add to 1.
    """

    grid: int
    own: float = 0.4
    others: tuple[float, ...] = (0.35, 0.25, 0.15)

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "patches"
    partners: ClassVar[Partners] = ANY_PARTNERS

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        del key
        patches = sample.image
        batch = len(patches)
        row, column = jnp.divmod(jnp.arange(self.grid**2), self.grid)
        quadrant = 2 * (row >= self.grid // 2) + (column >= self.grid // 2)
        partner = (jnp.arange(batch)[:, None] + jnp.arange(1, 4)) % batch
        mixed = patches
        for k in range(3):
            taken = self.partners.take(patches, partner[:, k])
            mixed = jnp.where((quadrant == k + 1)[:, None], taken, mixed)
        # Weights that differ by row, so that a wrong transpose shows.
        scale = jnp.linspace(0.8, 1.2, batch)
        return Mixed(
            image=mixed,
            partner=partner.astype(jnp.int32),
            lam=self.own * scale,
            partner_weight=scale[:, None] * jnp.asarray(self.others),
        )


@dataclasses.dataclass(frozen=True)
class SwappedWords(Paired):
    """The first words of each caption come from its partner's; images stay.

    Attributes:
      words: number of words that are replaced.
    """

    words: int = 1

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "none"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        assert sample.tokens is not None
        partner = self.partners.draw(key, len(sample.tokens))
        column = jnp.arange(sample.tokens.shape[1])
        replaced = (column > 0) & (column <= self.words)
        others = self.partners.take(sample.tokens, partner)
        return Mixed(
            image=None,
            partner=partner,
            lam=jnp.full(len(partner), 0.75),
            tokens=jnp.where(replaced, others, sample.tokens),
        )


@dataclasses.dataclass(frozen=True)
class PooledMixup(Paired):
    """Mixup of the pooled embeddings, of both sides with a weight each.

    Attributes:
      image_share: share of the row's own image embedding, which is λ.
      text_share: share of the row's own text embedding.
    """

    image_share: float = 0.7
    text_share: float = 0.9

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "none"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        partner = self.partners.draw(key, len(sample.image))
        return Mixed(image=None, partner=partner, lam=jnp.full(len(partner), self.image_share))

    def mix_features(
        self, mixed: Mixed, image: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def mix(values: jax.Array, share: float) -> jax.Array:
            others = self.partners.take(values, mixed.partner)
            both = share * values + (1 - share) * others
            return both / jnp.linalg.norm(both, axis=1, keepdims=True)

        return mix(image, self.image_share), mix(text, self.text_share)


@dataclasses.dataclass(frozen=True)
class KeptPatches(Paired):
    """Images as they are, of which the tower reads a random part of the patches.

    Attributes:
      grid: patches per side.
      share: share of the patches that is kept.
    """

    grid: int
    share: float = 0.5

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "patches"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        batch, patches, _ = sample.image.shape
        order = jnp.argsort(jax.random.uniform(key, (batch, patches)), axis=1)
        return Mixed(
            image=None,
            partner=self.partners.draw(key, batch),
            lam=jnp.ones(batch),
            kept=order[:, : round(self.share * patches)].astype(jnp.int32),
        )


SAMPLE_MIXERS: dict[str, type] = {
    "joined_captions": JoinedCaptions,
    "quadrants": Quadrants,
    "swapped_words": SwappedWords,
    "pooled_mixup": PooledMixup,
    "kept_patches": KeptPatches,
}
