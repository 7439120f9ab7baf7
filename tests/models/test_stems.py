"""The hierarchical stem: equivalent convolutions, independence of patches, cost, errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_flops import patch_embed_flops
from objective_runs import mixed_batch
from tiny_model import GRID, make_batch, make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.mixing import build_mixer
from timix_jax.mixing.windows import patchify, unpatchify
from timix_jax.models.stems import stem_stages
from timix_jax.objectives.mixed import MixedContrastive


def stemmed(patch):
    model = tiny_model()
    shape = model.image._replace(stem="hierarchical", patch=patch, image_size=GRID * patch)
    return dataclasses.replace(model, image=shape)


@functools.cache
def params_of(patch):
    return make_params(stemmed(patch))


def pixels_of(model, count=3):
    rng = np.random.default_rng(5)
    side = model.image.image_size
    return jnp.asarray(rng.uniform(-1, 1, (count, side, side, 3)), jnp.float32)


def as_convolutions(params, x, stages):
    """Apply convolutions whose stride equals their size to the whole image."""
    for number, (side, channels) in enumerate(stages, 1):
        p = params[f"embed{number}"]
        kernel = p["kernel"].reshape(side, side, x.shape[-1], channels)
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (side, side), "VALID", dimension_numbers=layout)
        x = x + p["bias"]
        if number < len(stages):
            n = params[f"norm{number}"]
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = jax.nn.gelu(x * n["scale"] + n["bias"], approximate=False)
    return x.reshape(x.shape[0], -1, x.shape[-1])


@pytest.mark.parametrize("patch", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_is_three_strided_convolutions(patch):
    model = stemmed(patch)
    params, pixels = params_of(patch), pixels_of(model)
    sides = [side for side, _ in stem_stages(patch, model.image.width)]
    assert np.prod(sides) == patch

    @jax.jit
    def both(params):
        plain = as_convolutions(
            params["image"]["patch_embed"], pixels, stem_stages(patch, model.image.width)
        )
        return model.embed_patches(params, pixels), plain

    ours, plain = both(params)
    np.testing.assert_allclose(ours, plain, atol=2e-5)
    gradients = [
        jax.jit(jax.grad(lambda p, i=i: jnp.sum(jnp.sin(both(p)[i]))))(params)["image"][
            "patch_embed"
        ]
        for i in (0, 1)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3), *gradients)
    assert all(float(jnp.abs(leaf).max()) > 1e-4 for leaf in jax.tree.leaves(gradients[0]))


@pytest.mark.slow
def test_mixed_embeddings_are_those_of_mixed_pixels():
    model, params = stemmed(12), params_of(12)
    pixels = pixels_of(model, 2)
    taken = jnp.arange(GRID**2) % 3 == 0
    one, other = patchify(pixels, model.image.patch)
    mixed = unpatchify(jnp.where(taken[:, None], other, one)[None], model.image.patch)
    embedded = model.embed_patches(params, pixels)
    np.testing.assert_allclose(
        model.embed_patches(params, mixed)[0],
        jnp.where(taken[:, None], embedded[1], embedded[0]),
        atol=1e-6,
    )


@pytest.mark.slow
def test_mixup_mixes_pixels_not_embeddings():
    model, params, batch = stemmed(4), params_of(4), make_batch()
    mixer = build_mixer("mixup", grid=model.grid)
    objective = MixedContrastive(mixer, None, placement="replace")
    mixed, _ = mixed_batch(make_forward(model, [objective], params, batch, 1))
    own = batch["image"].astype(np.float32) / 127.5 - 1
    lam = float(mixed.lam[0])
    assert 0.01 < lam < 0.99
    np.testing.assert_allclose(mixed.image, lam * own + (1 - lam) * own[::-1], atol=1e-5)
    embedded = model.embed_patches(params, own)
    of_means = model.embed_patches(params, mixed.image)
    assert float(jnp.abs(of_means - lam * embedded - (1 - lam) * embedded[::-1]).max()) > 1e-2


def test_bytes_and_their_pixel_values_are_one():
    model, params, images = stemmed(4), params_of(4), make_batch()["image"]
    values = images.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(
        model.embed_patches(params, images), model.embed_patches(params, values)
    )


def test_operations():
    # By hand, patch 8, width 16: 256 cells of 2x2x3 values to 4; 64 of 2x2x4 to 8; 16 of 2x2x8 to 16.
    assert patch_embed_flops(stemmed(8).image) == 2 * (256 * 12 * 4 + 64 * 16 * 8 + 16 * 32 * 16)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"stem": "conv"}, r"model\.image\.stem='conv' is unknown; use 'linear' or 'hierarchical'"),
        (
            {"stem": "hierarchical", "patch": 6, "image_size": 24},
            r"model\.image\.patch=6: .*needs a multiple of 4 pixels",
        ),
    ],
)
def test_refused(shape, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tiny_model(), image=tiny_model().image._replace(**shape))
