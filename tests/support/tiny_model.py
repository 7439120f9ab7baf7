"""A dual encoder of a few thousand weights, and a batch for it."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.objectives.base import prepare_forward

GRID, PATCH, TOKENS, VOCABULARY = 4, 4, 6, 30


@contextlib.contextmanager
def compiler_settings(**more) -> Iterator[None]:
    """Compile without optimisations, and with further settings of `jax.config`."""
    settings = {"jax_disable_most_optimizations": True, **more}
    before = {name: jax.config.values[name] for name in settings}
    _set(settings)
    yield
    _set(before)


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    if "jax_compilation_cache_dir" in settings:
        compilation_cache.reset_cache()  # otherwise the first folder stays in use


def tiny_model(stem="linear", **options) -> DualEncoder:
    return DualEncoder(
        VitShape(GRID * PATCH, PATCH, 16, 3, 2, 32, stem),
        TextShape(VOCABULARY, TOKENS, 16, 1, 2, 32),
        embed_dim=8,
        temperature_init=0.2,
        **{"tpp_layer": 1, **options},
    )


def make_params(model, seed=0):
    """Return weights so large that every score, embedding and gradient differs."""
    return jax.tree.map(jnp.asarray, _drawn_params(model, seed))


@functools.cache
def _drawn_params(model, seed):
    # Drawn by NumPy, since compiling a model's own initialisation takes seconds; vectors and scalars start where the
    # model lets them start, for which nothing random is compiled.
    constants = jax.jit(lambda: _without_matrices(model.init(jax.random.key(0))))()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(shape, constant):
        noise = 0.2 * rng.standard_normal(shape.shape)
        if shape.ndim > 1:
            start = 0.2 * rng.standard_normal(shape.shape)
        else:
            start, noise = np.asarray(constant), noise * (shape.ndim > 0)
        return (start + noise).astype(shape.dtype)

    return jax.tree.map(draw, shapes, constants)


def _without_matrices(params):
    return jax.tree.map(lambda p: p if p.ndim < 2 else jnp.zeros((), p.dtype), params)


def make_batch(batch=8, region_images=4, max_regions=3, seed=0):
    rng = np.random.default_rng(seed)
    side = GRID * PATCH

    def tokens(*shape):
        rows = rng.integers(4, VOCABULARY, (*shape, TOKENS)).astype(np.int32)
        rows[..., 0] = 1
        length = rng.integers(3, TOKENS + 1, shape)
        return np.where(np.arange(TOKENS) < length[..., None], rows, 0)

    def boxes(*shape):
        corner = rng.uniform(0, 0.7, (*shape, 2))
        size = rng.uniform(0.1, 0.3, (*shape, 2))
        return np.concatenate([corner, corner + size], axis=-1).astype(np.float32)

    def images(count):
        return rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)

    mask = np.arange(max_regions) < rng.integers(1, max_regions + 1, (region_images, 1))
    return {
        "image": images(batch),
        "tokens": tokens(batch),
        "boxes": boxes(batch, 2),
        "box_mask": np.ones((batch, 2), bool),
        "regions": {
            "image": images(region_images),
            "tokens": tokens(region_images, max_regions),
            "boxes": boxes(region_images, max_regions),
            "mask": mask,
        },
    }


def make_forward(model, objectives, params, batch, step, teacher=None, seed=3):
    return prepare_forward(
        model,
        objectives,
        params,
        batch,
        teacher=teacher,
        step=jnp.asarray(step, jnp.int32),
        seed_key=jax.random.key(seed),
    )


def encode_site(model, params, patches):
    """Return the patch tokens (B, N, C) that the predictor reads."""
    tokens = model.encode_blocks(params, patches, (model.tpp_layer,))[model.tpp_layer]
    return model.patch_tokens(tokens)
