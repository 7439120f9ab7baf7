"""`jax.export` of both towers, with a symbolic batch: programs that need neither this package nor its models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import save_file

from timix_jax.errors import UserError
from timix_jax.export.parts import tokenizer_files
from timix_jax.export.trained import Trained
from timix_jax.inference import LoadedModel
from timix_jax.inference.programs import DESCRIPTION, FORMAT, PARAMS, PROGRAMS
from timix_jax.parallel.paths import map_with_names, path_names

PLATFORMS = ("cpu", "cuda", "tpu")
_README = """\
Two programs by `jax.export`, for any batch size, on {platforms}:

    import jax, numpy as np
    from jax import export
    from safetensors.numpy import load_file

    params = load_file("params.safetensors")
    encode_image, encode_text = (
        export.deserialize(bytearray(open(name, "rb").read())).call
        for name in ("encode_image.jaxexport", "encode_text.jaxexport")
    )
    images = np.zeros((2, {size}, {size}, 3), np.uint8)  # RGB, resized to a square
    embeddings = encode_image(params, images)  # float32 (2, {dim}), rows of length 1
    tokens = np.full((2, {tokens}), {pad}, np.int32)  # of tokenizer.json, padded with {pad}
    embeddings = encode_text(params, tokens)  # float32 (2, {dim})

The cosines of images and texts, divided by the temperature {temperature:.6g}, are the model's logits.
"""


def write(
    model: LoadedModel, trained: Trained, folder: Path, platforms: Sequence[str] = PLATFORMS
) -> None:
    """Write programs, parameters, tokenizer and a description.

    Raises:
      UserError: the model cannot be exported for a platform.
    """
    pure = model.model.on_one_device()
    shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in trained.params.items()}
    structure = jax.eval_shape(pure.init, jax.random.key(0))

    def tree(params: Mapping[str, jax.Array]) -> Any:
        return map_with_names(lambda name, _: params[name], structure)

    def encode_image(params: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
        nested = tree(params)
        features = pure.encode_image(nested, pure.embed_patches(nested, images))
        return features.embedding.astype(jnp.float32)

    def encode_text(params: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
        return pure.encode_text(tree(params), tokens).embedding.astype(jnp.float32)

    (batch,) = export.symbolic_shape("batch")
    size, length = model.image_size, model.max_tokens
    inputs = {
        "encode_image": (encode_image, ((batch, size, size, 3), jnp.uint8)),
        "encode_text": (encode_text, ((batch, length), jnp.int32)),
    }
    for name, (function, (shape, dtype)) in inputs.items():
        try:
            program = export.export(jax.jit(function), platforms=tuple(platforms))(
                shapes, jax.ShapeDtypeStruct(shape, dtype)
            )
        except (ValueError, NotImplementedError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{name} cannot be exported for {', '.join(platforms)} ({reason})"
            ) from error
        (folder / PROGRAMS[name]).write_bytes(program.serialize())
    save_file({n: np.asarray(a, order="C") for n, a in trained.params.items()}, folder / PARAMS)
    _write_descriptions(model, trained, folder, platforms)


def _write_descriptions(
    model: LoadedModel, trained: Trained, folder: Path, platforms: Sequence[str]
) -> None:
    size, length, width = model.image_size, model.max_tokens, model.embed_dim
    description = {
        "format": FORMAT,
        "encode_image": {"images": ["batch", size, size, 3], "dtype": "uint8"},
        "encode_text": {"tokens": ["batch", length], "dtype": "int32"},
        "embed_dim": width,
        "grid": model.grid,
        "platforms": [*platforms],
        "temperature": model.temperature,
        "pixels": "RGB from 0 to 255; the program maps them to -1..1 (mean 0.5, std 0.5)",
        "preprocess": model.preprocess._asdict(),
        "pad_id": trained.tokenizer.pad_id,
        "parameters": len(path_names(trained.params)),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    for name, content in tokenizer_files(trained).items():
        text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    readme = _README.format(
        platforms=", ".join(platforms),
        size=size,
        tokens=length,
        dim=width,
        pad=trained.tokenizer.pad_id,
        temperature=model.temperature,
    )
    (folder / "README.md").write_text(readme)
