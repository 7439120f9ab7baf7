"""A model that looks up its outputs: image k is solid grey of value k, caption "k" is token k.

The tables determine an evaluator's results.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from timix_jax.data.records.schema import Record, Region
from timix_jax.evaluators import EvaluationInputs
from timix_jax.models.protocols import ImageFeatures, ImageTextModel, TextFeatures


@dataclass(frozen=True)
class LookupModel(ImageTextModel):
    """Parameters: images (N, D), texts (M, D), logits (N, M, g²) of the predictor, patches (N, g², D)."""

    grid: int = 2
    tpp_layer: int = 0
    depth: int = 1
    embed_dim: int = 16

    def embed_patches(self, params, images):
        value = jnp.round(jnp.mean(images.astype(jnp.float32), axis=(1, 2, 3)))
        return jnp.broadcast_to(value[:, None, None], (len(value), self.grid**2, 1))

    def encode_image(self, params, patches, *, kept=None, blocks=()):
        image = patches[:, 0, 0].astype(jnp.int32)
        every = dict.fromkeys(blocks, patches)
        return ImageFeatures(params["images"][image], patches, patches, every)

    def encode_blocks(self, params, patches, blocks):
        return dict.fromkeys(blocks, patches)

    def patch_tokens(self, tokens):
        return tokens

    def encode_text(self, params, tokens):
        text = tokens[:, 1]
        features = params["texts"][text]
        return TextFeatures(features, text[:, None], features[:, None], tokens > 0)

    def patch_logp(self, params, site, cls):
        logits = params["logits"][site[:, 0, 0].astype(jnp.int32), cls[:, 0]]
        return jax.nn.log_softmax(jnp.stack([jnp.zeros_like(logits), logits], -1))

    def project_patches(self, params, patches):
        return params["patches"][patches[:, 0, 0].astype(jnp.int32)]


class NumberTokenizer:
    """Encodes the caption "7" as 1 7 2."""

    def encode(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        ids = np.zeros((len(texts), max_tokens), np.int32)
        for row, text in enumerate(texts):
            ids[row, :3] = 1, int(text or 0), 2
        return ids


class GreySource:
    """Source whose image k is grey k, with `captions[k]` and `regions[k]`."""

    name = "grey:"

    def __init__(
        self, captions: Sequence[Sequence[int]], regions: Sequence[Sequence[Region]] | None = None
    ):
        self._captions = captions
        self._regions = regions or [()] * len(captions)

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, index: int) -> Record:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (index,) * 3).save(file, "PNG")
        captions = tuple(str(c) for c in self._captions[index])
        return Record(str(index), file.getvalue(), captions, tuple(self._regions[index]))

    @property
    def annotated(self) -> np.ndarray:
        return np.array([i for i, r in enumerate(self._regions) if r], np.int64)


def make_mesh(devices: int, fsdp: int = 1) -> jax.sharding.Mesh:
    grid = np.array(jax.devices()[:devices]).reshape(devices // fsdp, fsdp)
    return jax.sharding.Mesh(grid, ("data", "fsdp"))


def inputs_of(source, mesh, batch_size=8, model=None):
    return EvaluationInputs(
        model=model or LookupModel(),
        source=source,
        tokenizer=NumberTokenizer(),
        mesh=mesh,
        image_size=8,
        max_tokens=4,
        batch_size=batch_size,
        max_regions=5,
    )
