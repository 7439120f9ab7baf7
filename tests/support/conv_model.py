"""A convolutional image tower and a bag of words: a model that shares no code with the dual encoder.

It has no blocks, no patch predictor and no [CLS] token, cannot leave patches out, and knows nothing of the mesh.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.errors import UserError
from timix_jax.mixing.windows import patchify, unpatchify
from timix_jax.models.axes import axes_of, declare, unbox
from timix_jax.models.layers import unit_norm
from timix_jax.models.pixels import normalise_pixels
from timix_jax.models.protocols import ImageFeatures, ImageTextModel, TextFeatures
from timix_jax.parallel.axes import Axes

CONVOLUTION = ("NHWC", "HWIO", "NHWC")
INS = (-4, -3, -2)
normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class ConvModel(ImageTextModel):
    """Two convolutions of whole images, the mean of the patches; the mean of embedded words.

    Attributes:
      patch: pixels per side of what mixing exchanges, and stride of the second convolution.
      width: channels.
      kernel: pixels per side of the first convolution.
    """

    image_size: int
    vocab_size: int
    pad_id: int = 0
    embed_dim: int = 8
    temperature_init: float = 0.07
    temperature_range: tuple[float, float] = (0.001, 0.5)
    dtype: Any = jnp.float32
    patch: int = 4
    width: int = 16
    kernel: int = 3

    def __post_init__(self) -> None:
        """Refuse shapes that cannot work."""
        if self.image_size % self.patch:
            raise UserError(f"patch={self.patch} does not divide config.model.image.size")

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch

    def _declared(self, key: jax.Array) -> dict[str, Any]:
        keys = iter(jax.random.split(key, 5))
        up = declare(normal, Axes(tensor=-1, muon=(INS, (-1,)), unit="channels"))
        down = declare(normal, Axes(tensor=-2, muon=(INS, (-1,)), unit="channels"))
        flat = declare(normal, Axes(muon=((-2,), (-1,))))
        constant = declare(jax.nn.initializers.zeros, Axes(decay=False))
        k, p, w, d = self.kernel, self.patch, self.width, self.embed_dim
        return {
            "image": {
                "first": up(next(keys), (k, k, 3, w)),
                "second": down(next(keys), (p, p, w, w)),
                "bias_map": constant(next(keys), (1, self.grid, self.grid, w)),
                "projection": flat(next(keys), (w, d)),
            },
            "text": {"words": jax.random.normal(next(keys), (self.vocab_size, d))},
            "log_temperature": jnp.asarray(math.log(self.temperature_init)),
        }

    def init(self, key: jax.Array) -> Any:
        """Return fresh parameters."""
        return unbox(self._declared(key))

    def parameter_axes(self) -> Any:
        """Return the declared axes."""
        return axes_of(jax.eval_shape(self._declared, jax.random.key(0)))

    def embed_patches(self, params: Any, images: jax.Array) -> jax.Array:
        """Cut images (B, H, H, 3) into patches of pixels (B, N, P·P·3)."""
        return patchify(normalise_pixels(images), self.patch)

    def encode_image(self, params: Any, patches: jax.Array, *, kept=None, blocks=()):
        """Join the patches into images and convolve them."""
        if kept is not None:
            raise UserError("ConvModel convolves whole images: no patches can be left out")
        own = jax.tree.map(lambda p: p.astype(self.dtype), params["image"])
        x = unpatchify(patches, self.patch).astype(self.dtype)
        convolve = lambda x, kernel, stride: lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=CONVOLUTION
        )
        x = jax.nn.gelu(convolve(x, own["first"], 1))
        x = jax.nn.gelu(convolve(x, own["second"], self.patch) + own["bias_map"])
        x = x.reshape(len(x), self.grid**2, self.width)
        return ImageFeatures(unit_norm(x.mean(axis=1) @ own["projection"]), x, x, {})

    def project_patches(self, params: Any, patches: jax.Array) -> jax.Array:
        """Embed single patches (B, N, C)."""
        return unit_norm(patches @ params["image"]["projection"].astype(patches.dtype))

    def encode_text(self, params: Any, tokens: jax.Array) -> TextFeatures:
        """Average the words of captions (B, T)."""
        mask = tokens != self.pad_id
        words = jnp.where(mask[..., None], params["text"]["words"][tokens], 0)
        mean = words.sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return TextFeatures(unit_norm(mean), mean, words, mask)

    def temperature(self, params: Any) -> jax.Array:
        """Return τ."""
        return jnp.exp(params["log_temperature"])

    def constrain(self, params: Any) -> Any:
        """Clamp τ to its range."""
        low, high = (math.log(t) for t in self.temperature_range)
        return {**params, "log_temperature": jnp.clip(params["log_temperature"], low, high)}
