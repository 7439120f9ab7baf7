"""Run an objective on a tiny model, and compute reference losses and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from tiny_model import GRID, make_forward, tiny_model

from timix_jax.mixing import MIXERS, build_mixer, with_captions
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source

MODEL = tiny_model()
BATCH = 8
SCORES = ("tpp", "similarity", "attention", "random", "oracle")


def mixed(name="timix", score="tpp", **options):
    known = {field.name for field in dataclasses.fields(MIXERS[name])}
    mixer = build_mixer(name, grid=GRID, **{k: options.pop(k) for k in known if k in options})
    source = build_score_source(score, MODEL) if mixer.needs_scores else None
    return MixedContrastive(mixer, source, **options)


def objective_of(name, score="random", settings=(), captions="own", **options):
    """Build the loss of a mixer with the given settings."""
    mixer = with_captions(build_mixer(name, grid=GRID, **dict(settings)), captions)
    source = build_score_source(score, MODEL) if mixer.needs_scores else None
    return MixedContrastive(mixer, source, **options)


@functools.partial(jax.jit, static_argnums=0)
def run(objective, params, batch, step, teacher=None):
    """Return loss, log, gradient, and the mixed batch with its scores (or None)."""

    def loss(params):
        forward = make_forward(MODEL, (objective,), params, batch, step, teacher)
        term = objective(forward)
        how = mixed_batch(forward) if objective.name == "mix" else None
        return term.loss, (dict(term.log), how)

    (value, (log, how)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, log, grads, how


def mixed_batch(forward):
    """Return the mixed batch, and the scores (B, N) that chose its windows (zeros if there are none)."""
    view = forward.view("mixed")
    scores = None if view.sample is None else view.sample.scores
    scores = jnp.zeros(forward.patches().shape[:2]) if scores is None else scores
    return view.mixed, scores


@jax.jit
def embeddings(params, images, tokens):
    """Return image and caption embeddings and τ, for uint8 or float pixels."""
    image = MODEL.encode_image(params, MODEL.embed_patches(params, images)).embedding
    return image, MODEL.encode_text(params, tokens).embedding, MODEL.temperature(params)


def clean_logits(params, batch):
    image, text, tau = map(np.float64, embeddings(params, batch["image"], batch["tokens"]))
    return image @ text.T / tau


@jax.jit
def gradient_with_targets(params, images, tokens, i2t, t2i):
    """Return the gradient of ½[CE + CE] for given images and constant targets."""

    def loss(params):
        image, text, tau = embeddings(params, images, tokens)
        logits = image @ text.T / tau
        rows = jnp.sum(i2t * (logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)))
        columns = jnp.sum(t2i * (logits.T - jax.nn.logsumexp(logits.T, axis=1, keepdims=True)))
        return -(rows + columns) / (2 * len(images))

    return jax.grad(loss)(params)


def pixels(images):
    return np.float32(images / 127.5 - 1)


def assert_trees_close(got, want, tolerance=2e-5):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    assert scale > 1e-4
    for (path, g), w in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(g, w, atol=tolerance * scale, err_msg=str(path))
