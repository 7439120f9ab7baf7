"""mPLUG's fusion layers against a statement in NumPy, and the model's decoder, memory and tree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_connected import fused
from tiny_model import GRID, PATCH, TOKENS, VOCABULARY, make_batch, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.models.axes import unbox
from timix_jax.models.connected_stack import ConnectedStack, layer_kinds
from timix_jax.models.mplug import Mplug

SHAPES = {  # width, heads, MLP, image width, depth, stride
    "one": (8, 2, 12, 8, 6, 3),
    "wide": (12, 3, 16, 10, 5, 2),
    "every": (8, 2, 12, 8, 3, 1),
    "none": (8, 2, 12, 8, 3, 1000),
}


def stack_of(shape, **options):
    width, heads, mlp_dim, states, depth, stride = SHAPES[shape]
    return ConnectedStack(depth, stride, width, heads, mlp_dim, states, eps=1e-5, **options)


def drawn(stack, seed=0):
    """Return random weights of a stack, float64."""
    shapes = jax.eval_shape(lambda: stack.init(jax.random.key(0), method="initialise")["params"])
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape), unbox(shapes))


def as_float(tree):
    return jax.tree.map(jnp.float32, tree)


def stated(params, shape, text, seen, tokens):
    """Return the states of text and image after all layers, in NumPy."""
    return fused(params, *SHAPES[shape][-2:], text, seen, tokens)


def inputs(shape, rows=4, images=4):
    width, _, _, states, _, _ = SHAPES[shape]
    rng = np.random.default_rng(1)
    text, tokens = rng.standard_normal((rows, 5, width)), rng.standard_normal((images, 7, states))
    seen = np.arange(5) < rng.integers(1, 6, (rows, 1))
    return text, seen, tokens


@pytest.mark.parametrize(
    "scan", [pytest.param(True, marks=pytest.mark.slow), False], ids=["scan", "unrolled"]
)
@pytest.mark.parametrize(
    "shape", [s if s == "one" else pytest.param(s, marks=pytest.mark.slow) for s in SHAPES]
)
def test_equals_the_statement(shape, scan):
    """Two captions read each of four images."""
    stack = stack_of(shape, scan=scan)
    params = drawn(stack)
    text, seen, tokens = inputs(shape, rows=8)

    @jax.jit
    def run(params, text, seen, tokens):
        memory = stack.apply({"params": params}, tokens, method="memory")
        return stack.apply({"params": params}, text, seen, memory)

    want_text, want_image = stated(params, shape, text, seen, np.repeat(tokens, 2, axis=0))
    got_text, got_image = run(as_float(params), *as_float((text,)), seen, *as_float((tokens,)))
    np.testing.assert_allclose(got_text[seen], want_text[seen], atol=1e-4)
    np.testing.assert_allclose(got_image, want_image, atol=1e-4 * np.abs(want_image).max())


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["one", "wide"])
def test_gradient_equals_differences_of_the_statement(shape):
    """Along random directions of all weights and inputs, by central differences in float64."""
    stack, params = stack_of(shape, scan=False), drawn(stack_of(shape))
    text, seen, tokens = inputs(shape)
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal(x.shape) for x in stated(params, shape, text, seen, tokens)]
    weights[0] = weights[0] * seen[..., None]

    @jax.jit
    def grad(params, text, tokens):
        def loss(params, text, tokens):
            memory = stack.apply({"params": params}, tokens, method="memory")
            out = stack.apply({"params": params}, text, seen, memory)
            return sum(jnp.sum(w * x) for w, x in zip(weights, out, strict=True))

        return jax.grad(loss, argnums=(0, 1, 2))(params, text, tokens)

    def stated_loss(params, text, tokens):
        out = stated(params, shape, text, seen, tokens)
        return sum(np.sum(w * x) for w, x in zip(weights, out, strict=True))

    point = (params, text, tokens)
    got = grad(*as_float(point))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        direction = jax.tree.map(lambda x, rng=rng: rng.standard_normal(x.shape), point)
        moved = [
            jax.tree.map(lambda x, d, s=sign: x + s * 1e-5 * d, point, direction)
            for sign in (1, -1)
        ]
        want = (stated_loss(*moved[0]) - stated_loss(*moved[1])) / 2e-5
        products = jax.tree.map(lambda g, d: np.sum(np.float64(g) * d), got, direction)
        size = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(got)))
        assert sum(jax.tree.leaves(products)) == pytest.approx(want, abs=1e-4 * size)


def test_layer_kinds():
    assert [k[1] for k in layer_kinds(6, 3)] == list("rrrorr")  # cross, connected: the 4th of 6
    assert layer_kinds(6, 6) == ["cross"] * 6  # as in the large model
    assert layer_kinds(3, 1000) == ["cross"] * 3  # as in TiMiX's released file
    assert layer_kinds(4, 1) == ["cross", "connected", "connected", "connected"]


# The whole model.


def mplug(**options):
    dual = {name: options.pop(name) for name in ("microbatches", "text_dropout") if name in options}
    return Mplug(
        tiny_model(scan=False, **dual), fusion_depth=3, stride=2, decoder_depth=2, **options
    )


MODEL = mplug()


def read(model, params, batch, key=None):
    """Return image and text states fused, the decoder's memory, and its logits (B, T, V)."""
    image = model.encode_image(params, model.embed_patches(params, batch["image"]))
    text = model.encode_text(params, batch["tokens"])
    memory = model.image_memory(params, image.tokens)
    fused = model.fuse(params, text.tokens, text.mask, memory, key=key)
    decoded = model.decoder_memory(params, fused, text.mask)
    states = model.decode(params, batch["tokens"], decoded, key=key)
    return fused, decoded, model.decoder_logits(params, states)


@functools.cache
def case():
    return make_params(MODEL), make_batch(batch=4)


@pytest.mark.slow
def test_exchanged_patches_change_the_output():
    """Position embeddings reach fusion and decoder at step 0 of a fresh model."""
    batch = make_batch(batch=2)
    params = jax.jit(MODEL.init)(jax.random.key(0))
    images = batch["image"].copy()
    images[:, :PATCH, :PATCH] = batch["image"][:, -PATCH:, -PATCH:]
    images[:, -PATCH:, -PATCH:] = batch["image"][:, :PATCH, :PATCH]
    run = jax.jit(lambda params, batch: read(MODEL, params, batch)[2])
    before, after = run(params, batch), run(params, {**batch, "image": images})
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.slow
def test_steps_equal_the_whole_pass():
    params, batch = case()

    @jax.jit
    def both(params, batch):
        _, memory, logits = read(MODEL, params, batch)
        constants, cache = MODEL.start_decoding(params, memory, beams=2, max_tokens=TOKENS)
        tokens = jnp.stack([batch["tokens"], batch["tokens"][:, ::-1]], axis=1)

        def step(cache, position):
            arguments = (constants, tokens[:, :, position], position, cache)
            logits, cache = MODEL.decode_step(params, *arguments)
            return cache, logits

        steps = jax.lax.scan(step, cache, jnp.arange(TOKENS))[1]
        return logits, jnp.moveaxis(steps, 0, 2)

    logits, steps = both(params, batch)
    assert steps.shape == (4, 2, TOKENS, VOCABULARY)
    np.testing.assert_allclose(steps[:, 0], logits, atol=1e-5)
    assert np.abs(steps[:, 1] - logits).max() > 1e-2


def test_the_decoder_reads_image_and_prefix():
    params, batch = case()
    other = make_batch(batch=4, seed=1)

    @jax.jit
    def run(params, fused, batch):
        image = MODEL.encode_image(params, MODEL.embed_patches(params, fused["image"]))
        text = MODEL.encode_text(params, fused["tokens"])
        memory = MODEL.image_memory(params, image.tokens)
        fused = MODEL.fuse(params, text.tokens, text.mask, memory)
        memory = MODEL.decoder_memory(params, fused, text.mask)
        assert memory.mask.shape == (4, GRID**2 + 1 + TOKENS)
        return MODEL.decoder_logits(params, MODEL.decode(params, batch["tokens"], memory))

    same = run(params, batch, batch)
    for name in ("image", "tokens"):
        assert np.abs(run(params, {**batch, name: other[name]}, batch) - same).max() > 1e-3


def test_contains_the_dual_encoder():
    params = jax.eval_shape(MODEL.init, jax.random.key(0))
    dual = jax.eval_shape(MODEL.dual.init, jax.random.key(0))
    own = {name: params[name] for name in dual}
    assert jax.tree.map(lambda x: x.shape, own) == jax.tree.map(lambda x: x.shape, dual)
    assert set(params) - set(dual) == {"fusion", "decoder", "heads"}
    assert set(params["fusion"]) == {"cross", "connected"}
    axes = jax.tree.structure(MODEL.parameter_axes())
    assert axes == jax.tree.structure(params)


def test_bad_shapes_are_refused():
    for field in ("fusion_depth", "stride", "decoder_depth"):
        with pytest.raises(UserError, match=f"{field}=0: give at least 1"):
            dataclasses.replace(MODEL, **{field: 0})
    params, batch = jax.eval_shape(MODEL.init, jax.random.key(0)), make_batch(batch=4)
    with pytest.raises(UserError, match=f"max_tokens=9 exceeds the decoder's {TOKENS} positions"):
        jax.eval_shape(
            lambda params: MODEL.start_decoding(
                params, read(MODEL, params, batch)[1], beams=1, max_tokens=9
            ),
            params,
        )
