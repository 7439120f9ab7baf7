"""PatchMix (arXiv 2306.12243): each image consists of interleaved patches of m images."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, lambda_dtype
from timix_jax.mixing.partners import ANY_PARTNERS, Partners


@dataclasses.dataclass(frozen=True)
class PatchMix:
    """Image k takes segment j of its patches from image k + j, for j = 0 … m−1, around the end of the batch.

    The segments are a random partition of the positions, drawn for each row, whose sizes differ by one patch at most; a
    patch stays at its position.

    * `against="captions"`: mixed images and single captions, each of the m weighs 1/m ("mix-to-source").
    * `against="mixtures"`: mixed images and captions mixed alike, i.e. the mean of the m captions' embeddings. Rows k
      and k + d share m − |d| sources; the target is (1 − |d|/m)/m for |d| < m ("mix-to-mix"). In the paper the other
      side are mixed images of a second view; here captions are the second view.

    Attributes:
      images: m.
      against: what the mixed images are compared with.

    Raises:
      UserError: a setting is out of range.
    """

    images: int = 3
    against: Literal["captions", "mixtures"] = "captions"

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "patches"
    partners: ClassVar[Partners] = ANY_PARTNERS

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(f"mixing images={self.images}: an image is mixed from 2 or more")
        if self.against not in ("captions", "mixtures"):
            raise UserError(
                f"mixing against={self.against!r} is unknown; use 'captions' or 'mixtures'"
            )

    @property
    def mixes_whole_batch(self) -> bool:
        """True if its targets hold only where every row is mixed."""
        return self.against == "mixtures"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix (B, N, C) patches.

        Raises:
          UserError: the batch, or an image, has fewer than m rows or patches.
        """
        m, patches = self.images, sample.image
        batch, count = patches.shape[:2]
        if min(batch, count) < m:
            raise UserError(
                f"mixing images={m}: more than the {batch} images mixed per step or the {count} patches of an image"
            )
        rank = jnp.argsort(jax.random.uniform(key, (batch, count)), axis=1)
        segment = rank * m // count
        mixed = patches
        for j in range(1, m):
            others = jnp.roll(patches, -j, axis=0)
            mixed = jnp.where((segment == j)[..., None], others, mixed)
        distance = jnp.arange(1, m)
        weight = jnp.full(m - 1, 1 / m)
        if self.against == "mixtures":
            distance = jnp.concatenate([distance, -distance])
            weight = jnp.tile((1 - jnp.arange(1, m) / m) / m, 2)
        partner = (jnp.arange(batch)[:, None] + distance) % batch
        dtype = lambda_dtype(patches)
        return Mixed(
            mixed,
            partner.astype(jnp.int32),
            jnp.full(batch, 1 / m, dtype),
            jnp.broadcast_to(weight.astype(dtype), partner.shape),
            pasted=jnp.mean(segment > 0, axis=1, dtype=dtype),
        )

    def mix_features(
        self, mixed: Mixed, image: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the images as they are and, against mixtures, the mean of each row's m captions (B, D)."""
        del mixed
        if self.against == "captions":
            return image, text
        total = sum((jnp.roll(text, -j, axis=0) for j in range(1, self.images)), start=text)
        squared = jnp.sum(jnp.square(total), axis=1, keepdims=True)
        return image, total * jax.lax.rsqrt(squared + 1e-12)
