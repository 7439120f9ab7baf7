"""What towers of published weights need: masks, pooling, norms and activations, compared with their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import GRID, PATCH, TOKENS, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.models.transformer import activation
from timix_jax.models.variants import ImageVariant, TextVariant
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh

END = 2
CAPTIONS = np.array([[1, 7, 8, END, 0, 0], [1, 9, END, 0, 0, 0]], np.int32)


def text_model(**variant):
    return tiny_model(text_pre_norm=True, eot_id=END, text_variant=TextVariant(**variant))


def text_features(model, tokens=CAPTIONS):
    return jax.jit(model.encode_text)(make_params(model), jnp.asarray(tokens))


def test_quick_gelu_is_its_formula():
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(activation("quick_gelu")(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
    assert np.abs(activation("quick_gelu")(x) - activation("gelu")(x)).max() > 1e-2


def test_causal_tokens_do_not_see_later_ones():
    other = CAPTIONS.copy()
    other[:, 2] = 11
    for causal in (True, False):
        model = text_model(causal=causal, pool="eot")
        one, two = (text_features(model, tokens).tokens[:, :2] for tokens in (CAPTIONS, other))
        assert bool(np.abs(one - two).max() < 1e-6) is causal


def test_pools_are_their_definitions():
    for pool in ("cls", "mean", "eot", "last"):
        features = text_features(text_model(pool=pool))
        hidden = np.asarray(features.tokens)
        expected = {
            "cls": hidden[:, 0],
            "mean": np.stack([hidden[0, :4].mean(0), hidden[1, :3].mean(0)]),
            "eot": np.stack([hidden[0, 3], hidden[1, 2]]),
            "last": hidden[:, -1],
        }[pool]
        np.testing.assert_allclose(features.cls, expected, atol=1e-6)


def test_the_first_end_counts():
    twice = CAPTIONS.copy()
    twice[:, 3:5] = 5, END
    twice[0, 2] = END
    features = text_features(text_model(pool="eot"), twice)
    np.testing.assert_allclose(features.cls, np.asarray(features.tokens)[:, 2], atol=1e-6)


def test_captions_without_a_mask_for_padding_are_read_at_full_length():
    """A shorter batch means the same captions, and padding changes them."""
    unmasked = text_model(pad_mask=False, pool="last")
    full, short = text_features(unmasked), text_features(unmasked, CAPTIONS[:, :4])
    assert short.tokens.shape[1] == 4
    np.testing.assert_allclose(short.embedding, full.embedding, atol=1e-6)
    np.testing.assert_array_equal(full.mask, CAPTIONS != 0)
    masked = text_features(text_model(pad_mask=True, pool="last"))
    assert np.abs(masked.embedding - full.embedding).max() > 1e-3


def test_projections():
    for projection, names in (("biased", {"kernel", "bias"}), ("linear", {"kernel"})):
        params = make_params(text_model(projection=projection))
        assert params["text"]["projection"].keys() == names
    with pytest.raises(UserError, match=r"image\.projection='none' needs model\.image\.width=16"):
        tiny_model(image_variant=ImageVariant(projection="none"))


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_single_patches_and_dropped_patches_with_a_norm_before_the_blocks(pool):
    """A patch encoded alone is an image of which only that patch is kept."""
    model = tiny_model(pool=pool, image_variant=ImageVariant("quick_gelu", 1e-5, ln_pre=True))
    params = make_params(model)
    assert params["image"]["norm_pre"]["scale"].shape == (16,)
    side = GRID * PATCH
    images = jax.random.uniform(jax.random.key(0), (2, side, side, 3), minval=-1)

    @jax.jit
    def encode(params):
        patches = model.embed_patches(params, images)
        kept = jnp.full((2, 1), 5)
        one = model.encode_image(params, patches, kept=kept)
        whole = model.encode_image(params, patches)
        return (
            *(one.embedding, model.encode_single_patches(params, patches)[:, 5]),
            *(whole.embedding, model.project_patches(params, whole.patches)),
        )

    kept, single, whole, projected = encode(params)
    np.testing.assert_allclose(kept, single, atol=1e-5)
    assert np.abs(whole - kept).max() > 1e-3
    assert projected.shape == (2, GRID**2, 8)


def test_the_pooling_head_reads_the_tokens_with_its_probe():
    """With one head, written out in NumPy."""
    model = tiny_model(pool="map", image_variant=ImageVariant(eps=1e-3))
    model = dataclasses.replace(model, image=model.image._replace(heads=1))
    params = make_params(model)
    images = jax.random.uniform(jax.random.key(0), (2, GRID * PATCH, GRID * PATCH, 3), minval=-1)
    features = jax.jit(lambda p: model.encode_image(p, model.embed_patches(p, images)))(params)
    head = jax.tree.map(np.asarray, params["image"]["attention_pool"])
    x = np.asarray(features.tokens)
    query = head["probe"][0, 0] @ head["query"]["kernel"][:, 0] + head["query"]["bias"][0]
    key, value = (x @ head["kv"]["kernel"][:, i, 0] + head["kv"]["bias"][i, 0] for i in range(2))
    weights = np.exp(key @ query / 4)
    weights /= weights.sum(1, keepdims=True)
    y = np.einsum("bn,bnc->bc", weights, value) @ head["out"]["kernel"][0] + head["out"]["bias"]
    z = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-3)
    z = z * head["norm"]["scale"] + head["norm"]["bias"]
    up, down = head["mlp"]["up"], head["mlp"]["down"]
    y = (
        y
        + np.asarray(activation("gelu")(z @ up["kernel"] + up["bias"])) @ down["kernel"]
        + down["bias"]
    )
    expected = y @ np.asarray(params["image"]["projection"]["kernel"])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(features.embedding, expected, atol=1e-5)


def test_the_new_parameters_are_split_and_do_not_decay_where_vectors_do_not():
    model = tiny_model(pool="map", image_variant=ImageVariant(ln_pre=True))
    axes = model.parameter_axes()["image"]
    pool = axes["attention_pool"]
    assert pool["query"]["kernel"].tensor == -2
    assert pool["out"]["kernel"].tensor == -3
    assert pool["probe"].decay is False
    assert not axes["norm_pre"]["scale"].decays(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    layout = Layout(make_mesh(jax.devices()[:2], tensor=2)).with_axes(model.parameter_axes())
    spec = layout.shardings(shapes)["image"]["attention_pool"]["kv"]["kernel"].spec
    assert "tensor" in spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "mean"}, r"model\.image\.pool='mean' is unknown; use 'cls', 'gap' or 'map'"),
        (
            {"text_variant": TextVariant(pool="eos")},
            r"text\.pool='eos' is unknown; .*'eot' or 'last'",
        ),
        ({"text_variant": TextVariant("relu")}, r"text\.act='relu' is unknown"),
        ({"image_variant": ImageVariant(eps=2.0)}, r"image\.eps=2\.0"),
        ({"text_variant": TextVariant(causal=True)}, "use 'eot'"),
        ({"text_variant": TextVariant(pool="eot")}, "eot_id"),
    ],
)
def test_values_that_cannot_work_are_named(change, message):
    with pytest.raises(UserError, match=message):
        tiny_model(**change)


def test_the_captions_fit_the_tiny_model():
    assert CAPTIONS.shape[1] == TOKENS
