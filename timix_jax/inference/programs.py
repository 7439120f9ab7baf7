"""Open a folder of exported programs (`python -m timix_jax.export --format=jax`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax import export
from safetensors.numpy import load_file

from timix_jax.data.images.preprocess import Preprocess
from timix_jax.data.tokenizers import load_tokenizer
from timix_jax.data.tokenizers.tokenizer import OWN
from timix_jax.errors import UserError
from timix_jax.inference.model import LoadedModel
from timix_jax.models.protocols import ImageFeatures, ImageTextModel, Params, TextFeatures
from timix_jax.parallel.mesh import make_mesh, replicated

FORMAT = "timix_jax programs"
DESCRIPTION = "jax_export.json"
PARAMS = "params.safetensors"
PROGRAMS = {"encode_image": "encode_image.jaxexport", "encode_text": "encode_text.jaxexport"}

_BATCH_SIZE = 64  # per device
Array = jax.Array


class ExportedModel(ImageTextModel):
    """Two programs as a model that embeds, and can do nothing else."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self._description = description
        read = lambda name: export.deserialize(bytearray((folder / PROGRAMS[name]).read_bytes()))
        self._image, self._text = read("encode_image").call, read("encode_text").call

    @property
    def grid(self) -> int:
        """g, patches per side."""
        return int(self._description["grid"])

    @property
    def embed_dim(self) -> int:
        """D, the width of the shared space."""
        return int(self._description["embed_dim"])

    def init(self, key: Array) -> Params:
        """Raise a UserError: programs cannot be trained."""
        raise UserError("exported programs have no fresh parameters")

    def embed_patches(self, params: Params, images: Array) -> Array:
        """Return the images: their patches are embedded within the program."""
        return images

    def encode_image(
        self,
        params: Params,
        patches: Array,
        *,
        kept: Array | None = None,
        blocks: Sequence[int] = (),
    ) -> ImageFeatures:
        """Run images uint8 (B, S, S, 3)."""
        embedding = self._image(params, patches)
        return ImageFeatures(embedding, embedding[:, None], embedding[:, None], {})

    def encode_text(self, params: Params, tokens: Array) -> TextFeatures:
        """Run tokens int32 (B, T)."""
        embedding = self._text(params, tokens)
        mask = jnp.ones((len(tokens), 1), bool)
        return TextFeatures(embedding, embedding, embedding[:, None], mask, embedding)

    def temperature(self, params: Params) -> Array:
        """Return τ, a float32 scalar."""
        return jnp.exp(jnp.float32(math.log(self._description["temperature"])))


def is_program_folder(path: epath.Path) -> bool:
    """Return True for a folder that holds exported programs."""
    return path.is_dir() and (path / DESCRIPTION).exists()


def load_programs(path: epath.Path, *, batch_size: int | None = None) -> LoadedModel:
    """Open exported programs.

    Raises:
      UserError: a file is missing or damaged, or the programs were exported for other devices.
    """
    folder = Path(path)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']!r}")
        model = ExportedModel(folder, description)
        params = load_file(folder / PARAMS)
        own = json.loads((folder / "tokenizer_config.json").read_text())[OWN]
        tokenizer = load_tokenizer(folder / "tokenizer.json", **own)
    except UserError:
        raise
    except Exception as error:  # flatbuffers and MLIR raise their own kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{folder} is damaged ({reason}): export the model again") from error
    platform = jax.default_backend()
    known = {"gpu": ("cuda", "rocm")}.get(platform, (platform,))
    if not set(known) & set(description["platforms"]):
        raise UserError(
            f"{folder} was exported for {', '.join(description['platforms'])}, not for {platform}: give --platforms"
        )
    mesh = make_mesh(jax.local_devices())
    return LoadedModel(
        model,
        jax.device_put(params, replicated(mesh)),
        mesh,
        tokenizer,
        image_size=description["encode_image"]["images"][1],
        max_tokens=description["encode_text"]["tokens"][1],
        batch_size=batch_size or _BATCH_SIZE * mesh.size,
        origin=str(folder),
        preprocess=Preprocess(**description["preprocess"]),
    )
