"""Vision transformer: stem, blocks, pooling and projection as separate steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.models.attention_pool import AttentionPool
from timix_jax.models.axes import Axes, declare
from timix_jax.models.patch_dropout import take_patches
from timix_jax.models.pixels import normalise_pixels
from timix_jax.models.stems import HierarchicalStem
from timix_jax.models.transformer import Remat, Stack, kernel_init
from timix_jax.models.variants import VIT, ImagePool, ImageVariant
from timix_jax.parallel.layout import Layout

Array = jax.Array

# Width, depth, heads and MLP width of the standard sizes.
VIT_SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
}


class VitShape(NamedTuple):
    """Shape of a ViT: `image_size` H and `patch` P in pixels, grid g = H/P, N = g² patches; `stem` of `STEMS`."""

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    stem: str = "linear"

    @property
    def grid(self) -> int:
        """g, patches per side."""
        return self.image_size // self.patch


def sincos_positions(grid: int, width: int) -> Array:
    """Return two-dimensional sine-cosine position embeddings, (1, grid·grid, width) float32, row-major.

    Sine and cosine of the row and of the column take a quarter of the width each, at wavelengths from 2π to 2π·10,000
    patches. The amplitude ½ is that of fresh patch embeddings.
    """
    quarter = width // 4
    rates = 1.0 / 10_000.0 ** (np.arange(quarter) / max(quarter - 1, 1))
    angles = np.arange(grid)[:, None] * rates
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows = np.broadcast_to(waves[:, None], (grid, grid, 2 * quarter))
    columns = np.broadcast_to(waves[None], (grid, grid, 2 * quarter))
    table = 0.5 * np.concatenate([rows, columns], axis=2)
    return jnp.asarray(table.reshape(1, grid * grid, width), jnp.float32)


class VisionTransformer(nn.Module):
    """ViT with a separate method for patch embedding, since mixing happens between it and the blocks."""

    shape: VitShape
    embed_dim: int
    pool: ImagePool = "cls"
    act: str = "gelu"
    dtype: Any = jnp.float32
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None
    variant: ImageVariant = VIT

    def setup(self) -> None:
        """Declare the parameters, whose shapes do not depend on the inputs."""
        s, v = self.shape, self.variant
        act, eps = v.act or self.act, v.eps or 1e-6
        self.patch_embed = (
            HierarchicalStem(s.patch, s.width, act, self.dtype)
            if s.stem == "hierarchical"
            # The patch convolution as a matrix product over (row, column, channel), into which HWIO kernels reshape.
            else nn.Dense(s.width, kernel_init=kernel_init, dtype=self.dtype)
        )
        if self.pool == "cls":
            cls_init = declare(nn.initializers.normal(0.02), Axes(decay=False))
            self.cls = self.param("cls", cls_init, (1, 1, s.width))
        # Learned, but starting from sines and cosines, so that neighbours are similar from the first step.
        positions = lambda key: sincos_positions(s.grid, s.width)
        self.pos_embed = self.param("pos_embed", declare(positions, Axes(decay=False)))
        self.blocks = Stack(
            s.depth,
            s.heads,
            s.mlp_dim,
            eps=eps,
            act=act,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            layout=self.layout,
            root="image/blocks",
        )
        if v.ln_pre:
            self.norm_pre = nn.LayerNorm(epsilon=eps, dtype=self.dtype)
        self.norm = nn.LayerNorm(epsilon=eps, dtype=self.dtype)
        if self.pool == "map":
            self.attention_pool = AttentionPool(s.heads, s.mlp_dim, eps, act, self.dtype)
        if v.projection != "none":
            self.projection = nn.Dense(
                self.embed_dim,
                use_bias=v.projection == "biased",
                kernel_init=kernel_init,
                dtype=self.dtype,
            )

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: 1 with a [CLS] token, else 0."""
        return 1 if self.pool == "cls" else 0

    def embed_patches(self, images: Array) -> Array:
        """Map images (B, H, H, 3), uint8 or float in -1..1, to the stem's outputs (B, N, C)."""
        g, p = self.shape.grid, self.shape.patch
        x = normalise_pixels(images)
        b = x.shape[0]
        if x.shape[1:] != (g * p, g * p, 3):
            raise UserError(
                f"images of shape {x.shape[1:]} do not fit model.image: expected {(g * p, g * p, 3)}"
            )
        x = x.reshape(b, g, p, g, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, g * g, p, p, 3)
        if self.shape.stem == "linear":
            x = x.reshape(b, g * g, p * p * 3)
        return self.patch_embed(x)

    def _tokens(self, patches: Array, kept: Array | None = None) -> Array:
        positions = self.pos_embed.astype(self.dtype)
        if kept is None:
            x = patches + positions
        else:
            images = patches.shape[1] // positions.shape[1]
            x = take_patches(patches + jnp.tile(positions, (1, images, 1)), kept)
        if self.pool == "cls":
            cls = jnp.broadcast_to(self.cls.astype(self.dtype), (x.shape[0], 1, x.shape[2]))
            x = jnp.concatenate([cls, x], axis=1)
        return self.norm_pre(x) if self.variant.ln_pre else x

    def run_blocks(self, patches: Array, *, blocks: Sequence[int]) -> dict[int, Array]:
        """Run patch embeddings (B, N, C) up to the last of `blocks`; return all tokens (B, N+prefix, C) after each."""
        return self.blocks(self._tokens(patches), stop=max(blocks) + 1, blocks=blocks)[1]

    def __call__(
        self, patches: Array, kept: Array | None = None, *, blocks: Sequence[int] = ()
    ) -> tuple[Array, Array, Array, dict[int, Array]]:
        """Encode patch embeddings (B, N, C).

        With `kept` (B, K) the blocks see only those patches, each at its own position, and N becomes K. The patches may
        then be those of several images, one image after another.

        Returns:
          The embedding (B, D), the final tokens (B, N+prefix, C), the patches (B, N, C) among them, and a dict from
          each of `blocks` to the tokens after it.
        """
        x, captured = self.blocks(self._tokens(patches, kept), blocks=blocks)
        x = self.norm(x)
        patch_tokens = x[:, self.prefix :]
        return self._embed(x), x, patch_tokens, captured

    def _embed(self, tokens: Array) -> Array:
        """Pool normed tokens (B, N+prefix, C) and project them, (B, D) without normalising."""
        if self.pool == "cls":
            pooled = tokens[:, 0]
        else:
            pooled = self.attention_pool(tokens) if self.pool == "map" else tokens.mean(axis=1)
        return pooled if self.variant.projection == "none" else self.projection(pooled)

    def encode_single(self, patches: Array) -> Array:
        """Encode each of the patches (B, N, C) as if its image showed nothing else, (B, N, D) without normalising."""
        b, n, c = patches.shape
        tokens = self._tokens(patches)
        x = tokens[:, self.prefix :].reshape(b * n, 1, c)
        if self.pool == "cls":
            cls = jnp.broadcast_to(tokens[:1, :1], (b * n, 1, c))  # the same in all images
            x = jnp.concatenate([cls, x], axis=1)
        return self._embed(self.norm(self.blocks(x)[0])).reshape(b, n, -1)

    def project(self, tokens: Array) -> Array:
        """Embed each of the final tokens (B, N, C) as if it were pooled alone, (B, N, D) without normalising."""
        if self.pool == "map":
            tokens = self.attention_pool(tokens.reshape(-1, 1, tokens.shape[-1])).reshape(
                tokens.shape
            )
        return tokens if self.variant.projection == "none" else self.projection(tokens)

    def initialise(self) -> Array:
        """Use every parameter once, for `init`."""
        s = self.shape
        return self(self.embed_patches(jnp.zeros((1, s.image_size, s.image_size, 3))))[0]


def cls_attention(block_params: Any, tokens: Array, *, heads: int, eps: float = 1e-6) -> Array:
    """Return the attention of [CLS] to the patches in one pre-norm block, averaged over heads.

    Args:
      block_params: parameters of that block (not stacked).
      tokens: (B, N+1, C) input of the block, [CLS] first.
      heads: number of heads.
      eps: epsilon of the block's norm.

    Returns:
      (B, N) float32 (float64 for float64 tokens), the scores of SMMix; a row sums to less than 1, as the attention of
      [CLS] to itself is left out.
    """
    norm, qkv = block_params["norm1"], block_params["attention"]["qkv"]
    x = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)
    x = x * norm["scale"] + norm["bias"]
    query = jnp.einsum("bc,chd->bhd", x[:, 0], qkv["kernel"][:, 0]) + qkv["bias"][0]
    key = jnp.einsum("btc,chd->bthd", x, qkv["kernel"][:, 1]) + qkv["bias"][1]
    logits = jnp.einsum("bhd,bthd->bht", query, key) / jnp.sqrt(tokens.shape[-1] // heads)
    return jax.nn.softmax(logits, axis=-1).mean(axis=1)[:, 1:]
