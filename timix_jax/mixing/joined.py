"""Composed captions: the mixed image and the captions of both its sources, joined, are one positive pair.

CLIP-C (arXiv 2407.01408) joins the captions of two half images. Here any mixer makes the image; with TiMix the window
that is overwritten is the one that the own caption speaks of least, so that both captions stay true.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import (
    LabelsByAttention,
    Mixed,
    Mixer,
    Sample,
    Space,
    composes_captions,
    is_self_partner,
    mixes_embeddings,
)
from timix_jax.mixing.captions_alone import CaptionsAlone
from timix_jax.mixing.partners import Partners


@dataclasses.dataclass(frozen=True)
class JoinedCaptions:
    """A mixer whose images are compared with the joined captions of their sources.

    The target is the identity: image k shows everything that joined caption k says. It also shows part of what its
    partner's caption says, so that those two are not compared at all (`Mixed.apart`).

    With phrases, a joined caption holds one phrase of the partner's caption, and the window that is pasted is the one
    that the phrase speaks of most: a window seldom shows all that a caption names.

    Attributes:
      mixer: makes the images.
      by_phrase: join one phrase of the partner's caption (`Sample.phrases`) instead of the whole.
    """

    mixer: Mixer
    by_phrase: bool = False

    composes_captions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self.mixer).__name__
        if mixes_embeddings(self.mixer):
            raise UserError(
                f"mix.captions='joined' needs a mixer of images; {name} mixes embeddings"
            )
        if composes_captions(self.mixer):
            raise UserError(f"mix.captions='joined': {name} joins captions by itself; use 'own'")
        if isinstance(self.mixer, LabelsByAttention):
            raise UserError(
                f"mix.captions='joined' leaves no labels to {type(self.mixer).__name__}: use mix.mixer='cutmix'"
            )

    @property
    def needs_scores(self) -> bool:
        """True if the mixer of the images needs them."""
        return self.mixer.needs_scores

    @property
    def space(self) -> Space:
        """Form of images that the mixer changes."""
        return self.mixer.space

    @property
    def partners(self) -> Partners:
        """The rule of the mixer."""
        return self.mixer.partners

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix the images, then join the captions.

        Raises:
          UserError: the sample has no captions or phrases, or the mixer changes captions or has several partners per
            row.
        """
        if self.by_phrase and sample.phrases is None:
            raise UserError("joining phrases needs a phrase of each caption: give Sample.phrases")
        if not self.by_phrase:
            sample = sample._replace(phrases=None, phrase_scores=None)
        mixed = self.mixer(key, sample)
        if mixed.tokens is not None or mixed.partner.ndim > 1:
            raise UserError(
                "mix.captions='joined' needs a mixer with one partner per row that leaves the captions alone"
            )
        return as_one_positive(mixed, sample, self.partners)


def as_one_positive(mixed: Mixed, sample: Sample, partners: Partners) -> Mixed:
    """Return mixed images, whose λ is a share of the image, with the joined captions of both sources as one positive.

    Args:
      mixed: mixed images with one partner per row.
      sample: the batch before mixing.
      partners: the rule of the partners.

    Raises:
      UserError: the sample has no captions.
    """
    if sample.tokens is None:
        raise UserError("a mixer of captions needs captions: give Sample.tokens")
    given = sample.tokens if sample.phrases is None else sample.phrases
    other = partners.take(given, mixed.partner)
    joined = join_captions(sample.tokens, other, sample.pad_id)
    alone = is_self_partner(mixed.partner)
    return mixed._replace(
        tokens=jnp.where(alone[:, None], sample.tokens, joined),
        lam=jnp.ones_like(mixed.lam),
        partner_weight=jnp.zeros_like(mixed.lam),
        apart=mixed.partner,
        pasted=1 - mixed.lam if mixed.pasted is None else mixed.pasted,
    )


def with_captions(mixer: Mixer, captions: str) -> Mixer:
    """Return the mixer with its captions treated as `mix.captions` says: "own", "joined", or "phrases".

    Raises:
      UserError: another name, or one that leaves the mixer nothing to mix.
    """
    if captions not in ("own", "joined", "phrases"):
        raise UserError(f"mix.captions={captions!r} is unknown; use 'own', 'joined' or 'phrases'")
    if captions == "own" and isinstance(mixer, CaptionsAlone):
        raise UserError(
            "mix.captions='own' leaves nothing to mix.mixer='captions_alone': use 'joined' or 'phrases'"
        )
    return mixer if captions == "own" else JoinedCaptions(mixer, captions == "phrases")


def join_captions(own: jax.Array, other: jax.Array, pad_id: int) -> jax.Array:
    """Join two captions: [CLS], the words of both, [SEP].

    If they do not fit together, each is cut to half of the words that fit, the first half being the larger; what a
    short caption leaves free, the other takes.

    Args:
      own, other: int32 (B, T), [CLS], words, [SEP], then `pad_id`.
      pad_id: token id of padding.

    Returns:
      int32 (B, T).
    """
    length = own.shape[1]
    room = max(length - 2, 0)
    words, other_words = (
        jnp.maximum(jnp.sum(tokens != pad_id, axis=1, keepdims=True) - 2, 0)
        for tokens in (own, other)
    )
    kept = jnp.minimum(words, jnp.maximum(room - room // 2, room - other_words))
    added = jnp.minimum(other_words, room - kept)
    place = jnp.arange(length, dtype=jnp.int32)[None]
    from_other = jnp.take_along_axis(other, jnp.clip(place - kept, 0, length - 1), axis=1)
    end = jnp.take_along_axis(own, jnp.minimum(words + 1, length - 1), axis=1)
    joined = jnp.where(place <= kept, own, from_other)
    joined = jnp.where(place == kept + added + 1, end, joined)
    return jnp.where(place > kept + added + 1, jnp.asarray(pad_id, own.dtype), joined)
