"""The dual encoder: layouts, blocks, masks, and mixing of patches compared with mixing of pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import encode_site, make_params

from timix_jax.errors import UserError
from timix_jax.mixing import Sample, TiMix
from timix_jax.mixing.windows import patchify, unpatchify
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape

MODEL = DualEncoder(
    VitShape(24, 4, 16, 4, 2, 32), TextShape(30, 8, 12, 2, 2, 24), embed_dim=10, tpp_layer=1
)


@pytest.fixture(scope="module")
def params():
    return make_params(
        MODEL
    )  # larger than the initial scale, so that attention is far from uniform


@pytest.fixture
def images():
    return jax.random.randint(jax.random.key(1), (4, 24, 24, 3), 0, 256).astype(jnp.uint8)


def test_embedding_patches_is_the_patch_convolution(params, images):
    p = params["image"]["patch_embed"]
    pixels = images.astype(jnp.float32) / 127.5 - 1
    convolved = jax.lax.conv_general_dilated(
        pixels,
        p["kernel"].reshape(4, 4, 3, 16),
        (4, 4),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    expected = convolved.reshape(4, 36, 16) + p["bias"]
    np.testing.assert_allclose(MODEL.embed_patches(params, images), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_scanned_and_unrolled_agree_in_values_and_gradients(params, images, remat):
    def loss(p, model):
        features = model.encode_image(p, model.embed_patches(p, images), blocks=(1,))
        text = model.encode_text(p, jnp.array([[1, 4, 5, 2, 0, 0, 0, 0]] * 4))
        return jnp.sum(jnp.sin(features.embedding + text.embedding)) + jnp.sum(features.blocks[1])

    scanned = dataclasses.replace(MODEL, scan=True, remat=remat)
    unrolled = dataclasses.replace(MODEL, scan=False)
    value, grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, scanned)
    value2, grad2 = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, unrolled)
    np.testing.assert_allclose(value, value2, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3), grad, grad2)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_the_captured_block_is_where_the_short_pass_stops(images, scan, pool):
    model = dataclasses.replace(MODEL, scan=scan, pool=pool)

    @jax.jit
    def three_passes(params, images):
        patches = model.embed_patches(params, images)
        captured = model.encode_image(params, patches, blocks=(1,)).blocks[1]
        before_last = model.encode_image(params, patches, blocks=(2,)).blocks[2]
        return captured, encode_site(model, params, patches), before_last

    captured, site, before_last = three_passes(make_params(model), images)
    assert site.shape == (4, 36, 16)
    np.testing.assert_allclose(model.patch_tokens(captured), site, atol=1e-6)
    assert float(jnp.abs(before_last - captured).max()) > 1e-3


@pytest.mark.slow
def test_later_blocks_get_no_gradient_through_the_site(params, images):
    def loss(p):
        return jnp.sum(jnp.square(encode_site(MODEL, p, MODEL.embed_patches(p, images))))

    layers = jax.grad(loss)(params)["image"]["blocks"]["layers"]
    per_layer = sum(np.abs(g).reshape(4, -1).sum(axis=1) for g in jax.tree.leaves(layers))
    assert (per_layer[:2] > 0).all()
    assert (per_layer[2:] == 0).all()


def test_padding_does_not_change_a_caption(params):
    short = jnp.array([[1, 4, 5, 2]])
    padded = jnp.array([[1, 4, 5, 2, 0, 0, 0, 0]])
    np.testing.assert_allclose(
        MODEL.encode_text(params, short).embedding,
        MODEL.encode_text(params, padded).embedding,
        atol=1e-6,
    )
    other = MODEL.encode_text(params, jnp.array([[1, 4, 6, 2]])).embedding
    assert float(jnp.abs(other - MODEL.encode_text(params, short).embedding).max()) > 1e-3


def test_cls_attention_is_the_derivative_of_the_last_block(params, images):
    """The attention output is linear in the probabilities, so perturbed values reveal them."""
    patches = MODEL.embed_patches(params, images)
    tokens = MODEL.encode_blocks(params, patches, (2,))[2]
    scores = MODEL.cls_attention(params, tokens)
    last = jax.tree.map(lambda p: p[-1], params["image"]["blocks"]["layers"])
    x = np.asarray(tokens, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * np.asarray(last["norm1"]["scale"]) + np.asarray(last["norm1"]["bias"])
    qkv = last["attention"]["qkv"]
    expected = np.zeros((4, 36))
    for b in range(4):
        for head in range(2):
            q = x[b, 0] @ np.asarray(qkv["kernel"])[:, 0, head] + np.asarray(qkv["bias"])[0, head]
            k = x[b] @ np.asarray(qkv["kernel"])[:, 1, head] + np.asarray(qkv["bias"])[1, head]
            weights = np.exp(k @ q / np.sqrt(8))
            expected[b] += (weights / weights.sum())[1:] / 2
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_mixing_patches_equals_mixing_pixels_through_the_model(params, images):
    scores = jax.random.normal(jax.random.key(5), (4, 36))
    mixer = TiMix(grid=6)
    pixels = images.astype(jnp.float32) / 127.5 - 1
    at_pixels = mixer(jax.random.key(6), Sample(patchify(pixels, 4), scores=scores))
    embedded = MODEL.embed_patches(params, images)
    at_patches = mixer(jax.random.key(6), Sample(embedded, scores=scores))
    mixed_images = unpatchify(at_pixels.image, 4)
    assert float(jnp.abs(mixed_images - pixels).max()) > 0.5
    np.testing.assert_allclose(
        MODEL.embed_patches(params, mixed_images), at_patches.image, atol=1e-6
    )
    np.testing.assert_allclose(
        MODEL.encode_image(params, MODEL.embed_patches(params, mixed_images)).embedding,
        MODEL.encode_image(params, at_patches.image).embedding,
        atol=1e-5,
    )


def test_embeddings_have_unit_norm_in_float32_also_under_bfloat16(images):
    model = dataclasses.replace(MODEL, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(shapes))
    params = make_params(model)
    encode = lambda p: model.encode_image(p, model.embed_patches(p, images)).embedding
    embedding = jax.jit(encode)(params)
    assert embedding.dtype == jnp.float32
    np.testing.assert_allclose(jnp.sum(embedding**2, axis=1), 1, atol=1e-5)


def test_temperature_is_clamped_and_not_frozen():
    initial = jax.jit(lambda: MODEL.init(jax.random.key(0))["log_temperature"])()
    params = {**make_params(MODEL), "log_temperature": initial}
    np.testing.assert_allclose(MODEL.temperature(params), 0.07, rtol=1e-6)
    for value, expected in ((-99.0, 0.001), (99.0, 0.5)):
        clamped = MODEL.constrain({**params, "log_temperature": jnp.asarray(value)})
        np.testing.assert_allclose(MODEL.temperature(clamped), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": VitShape(25, 4, 16, 4, 2, 32)},
            r"size=25 is not a multiple .*patch=4; use 24 or 28",
        ),
        ({"tpp_layer": 4}, "tpp_layer=4 is not a block"),
        ({"image": VitShape(24, 4, 16, 4, 3, 32)}, "width=16 does not divide"),
    ],
)
def test_impossible_shapes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(MODEL, **change)


def test_images_of_another_size_are_refused(params):
    with pytest.raises(UserError, match=r"\(20, 24, 3\)"):
        MODEL.embed_patches(params, jnp.zeros((1, 20, 24, 3)))
