"""Mixers of tokens through a tiny model: values and gradients, both placements, other losses, several devices."""

import dataclasses

import jax
import jax.numpy as jnp
import method_reference as reference
import numpy as np
import pytest
from objective_runs import (
    BATCH,
    MODEL,
    assert_trees_close,
    clean_logits,
    gradient_with_targets,
    objective_of,
    pixels,
    run,
)
from tiny_model import GRID, PATCH, make_batch, make_forward, make_params

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated

pytestmark = pytest.mark.slow

N = GRID**2
FLIPPED = np.arange(BATCH)[::-1]


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


def test_tokenmix_through_the_model(params, batch):
    value, log, grads, (how, scores) = run(objective_of("tokenmix", "similarity"), params, batch, 2)
    clean = np.asarray(MODEL.embed_patches(params, batch["image"]))
    mask = (np.abs(np.asarray(how.image) - clean) > 1e-6).any(axis=(0, 2))
    assert 0 < mask.sum() < N
    mass = reference.softmax(scores)
    lam, weight = mass @ ~mask, mass[::-1] @ mask
    assert np.abs(lam + weight - 1).max() > 0.02
    images = np.where(np.kron(mask.reshape(GRID, GRID), np.ones((PATCH, PATCH)))[..., None], 1, 0)
    images = np.float32(np.where(images, pixels(batch["image"])[::-1], pixels(batch["image"])))
    i2t = np.diag(lam) + np.diag(weight)[:, ::-1]
    t2i = i2t.T / i2t.T.sum(axis=1, keepdims=True)
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    assert log["mixed_patches"] == pytest.approx(mask.mean() / 2, rel=1e-5)
    want = gradient_with_targets(
        params, images, batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


@pytest.mark.parametrize("against", ["captions", "mixtures"])
def test_patchmix_through_the_model(params, batch, against):
    objective = objective_of("patchmix", settings={"images": 3, "against": against})
    value, log, grads, (how, _) = run(objective, params, batch, 2)
    clean = np.asarray(MODEL.embed_patches(params, batch["image"]))
    distance = np.stack(
        [np.abs(how.image - np.roll(clean, -j, axis=0)).max(axis=2) for j in range(3)]
    )
    source = (np.argmin(distance, axis=0) + np.arange(BATCH)[:, None]) % BATCH
    A = (np.eye(BATCH) + np.roll(np.eye(BATCH), 1, 1) + np.roll(np.eye(BATCH), 2, 1)) / 3
    target = A if against == "captions" else A @ A.T

    @jax.jit
    @jax.value_and_grad
    def by_hand(params):
        patches = MODEL.embed_patches(params, batch["image"])[source, np.arange(N)]
        image = MODEL.encode_image(params, patches).embedding
        text = MODEL.encode_text(params, batch["tokens"]).embedding
        if against == "mixtures":
            text = jnp.float32(A) @ text
            text /= jnp.linalg.norm(text, axis=1, keepdims=True)
        logits = image @ text.T / MODEL.temperature(params)
        rows = jnp.sum(jnp.float32(target) * jax.nn.log_softmax(logits, axis=1))
        columns = jnp.sum(jnp.float32(target.T) * jax.nn.log_softmax(logits.T, axis=1))
        return -(rows + columns) / (2 * BATCH)

    want, want_grads = by_hand(params)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    assert log["mixed_images"] == 0.5
    assert log["mixed_patches"] == pytest.approx((source != np.arange(BATCH)[:, None]).mean() / 2)


def packed_by_hand(params, batch, source, position, i2t, tokens=None, apart=False):
    """Return loss and gradient of sequences of patches from images `source` (B, K) at `position` (B, K)."""
    t2i = i2t.T / i2t.T.sum(axis=1, keepdims=True)
    tokens = batch["tokens"] if tokens is None else tokens
    apart = np.broadcast_to(apart, i2t.shape)
    targets = np.float32(i2t), np.float32(t2i)
    return sequence_loss(params, batch["image"], source, position, tokens, *targets, apart)


@jax.jit
@jax.value_and_grad
def sequence_loss(params, images, source, position, tokens, i2t, t2i, apart):
    patches = MODEL.embed_patches(params, images)
    # The tower adds the positions 0, 1, …, whatever the patch.
    count, positions = position.shape[1], params["image"]["pos_embed"][0]
    x = patches[source, position] + positions[position] - positions[:count]
    kept = jnp.broadcast_to(jnp.arange(count), position.shape)
    padded = jnp.pad(x, ((0, 0), (0, N - count), (0, 0)))
    image = MODEL.encode_image(params, padded, kept=kept).embedding
    text = MODEL.encode_text(params, tokens).embedding
    logits = jnp.where(apart, -1e9, image @ text.T / MODEL.temperature(params))
    rows = jnp.sum(i2t * jax.nn.log_softmax(logits, axis=1))
    columns = jnp.sum(t2i * jax.nn.log_softmax(logits.T, axis=1))
    return -(rows + columns) / (2 * len(logits))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"share": 0.5, "lambda_by": "visible"}, {"placement": "replace", "fraction": 0.5}),
        ({"share": 0.75}, {"captions": "joined"}),
    ],
    ids=["extra", "replace", "joined"],
)
def test_packing_through_the_model(params, batch, settings, options):
    objective = objective_of("packing", "tpp", settings, **options)
    value, log, grads, (how, scores) = run(objective, params, batch, 2)
    k_each = int(settings.get("share", 1) * N / 2)
    best = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, : 2 * k_each]
    replace = objective.placement == "replace"
    selected = np.arange(BATCH) % 2 == 1 if replace else np.ones(BATCH, bool)
    row = np.arange(BATCH)[:, None]
    position = np.concatenate([best[:, :k_each], best[::-1, :k_each]], axis=1)
    source = np.where(np.arange(2 * k_each) < k_each, row, row[::-1])
    position = np.where(selected[:, None], position, best)
    source = np.where(selected[:, None], source, row)
    np.testing.assert_array_equal(how.kept % N, position)
    assert log["mixed_patches"] == pytest.approx(selected.mean() / 2 / (1 if replace else 2))
    tokens, apart = None, False
    if "captions" in options:
        i2t, tokens = np.eye(BATCH), np.asarray(how.tokens)
        apart = np.eye(BATCH, dtype=bool)[::-1]
    elif replace:
        mass = np.take_along_axis(reference.softmax(scores), best, axis=1)[:, :k_each].sum(axis=1)
        i2t = np.diag(np.where(selected, mass, 1)) + np.diag(selected * mass[::-1])[:, ::-1]
    else:
        i2t = (np.eye(BATCH) + np.eye(BATCH)[::-1]) / 2
    want, want_grads = packed_by_hand(params, batch, source, position, i2t, tokens, apart)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)


@pytest.mark.parametrize("rows", [[], [1, 3, 5, 7]], ids=["extra", "replace"])
def test_relevant_patches_through_the_model(params, batch, rows):
    options = {"placement": "replace", "fraction": 0.5} if rows else {}
    value, log, grads, (how, scores) = run(
        objective_of("relevant_patches", "tpp", {"rate": 0.6}, **options), params, batch, 2
    )
    best = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :6]
    chosen = rows or list(range(BATCH))
    np.testing.assert_array_equal(how.kept[np.array(chosen)], best[chosen])
    position, source = np.asarray(how.kept), np.broadcast_to(np.arange(BATCH)[:, None], best.shape)
    want, want_grads = packed_by_hand(params, batch, source, position, np.eye(BATCH))
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    assert log["mixed_images"] == 0


@pytest.mark.parametrize("name", ["timix", "random_window"])
def test_visible_mass_with_the_sigmoid_loss(params, batch, name):
    """Each caption's weight is its own visible mass, without competition."""
    model = dataclasses.replace(MODEL, logit_bias_init=-2.0)
    objective = objective_of(
        name, settings={"lambda_by": "visible"}, pairs=PairLoss(KINDS["sigmoid"])
    )

    @jax.jit
    def step(params):
        forward = make_forward(model, (objective,), params, batch, 1)
        image, text = forward.embeddings("mixed")
        S = image @ text.T / model.temperature(params)
        return objective(forward).loss, forward.view("mixed").mixed, S

    value, how, S = step({**params, "logit_bias": jnp.float32(-2.0)})
    S = np.float64(S) - 2
    y = np.diag(np.float64(how.lam)) + np.diag(np.float64(how.partner_weight))[:, ::-1]
    assert np.abs(y.sum(axis=1) - 1).max() > 0.02
    want = np.sum(np.log1p(np.exp(S)) - y * S, axis=1).mean()
    assert value == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize(
    ("name", "score", "settings"),
    [
        ("packing", "tpp", {"lambda_by": "visible"}),
        pytest.param("patchmix", "random", {"against": "mixtures"}, marks=pytest.mark.slow),
        pytest.param("transmix", "random", {}, marks=pytest.mark.slow),
        pytest.param("tokenmix", "similarity", {}, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_and_the_ring_give_the_same(params, batch, name, score, settings):
    mesh = make_mesh()
    objective = objective_of(name, score, settings)
    want, _, want_grads, _ = run(objective, params, batch, 1)
    ring = dataclasses.replace(objective, pairs=PairLoss(reduction=PairReduction("ring", 3, mesh)))
    arrays = jax.device_put(params, replicated(mesh)), jax.device_put(batch, batch_sharding(mesh))
    got, _, grads, _ = run(ring, *arrays, 1)
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_trees_close(grads, want_grads)


def test_settings_that_cannot_work():
    with pytest.raises(UserError, match=r"mix.placement='replace' leaves some rows clean"):
        objective_of("patchmix", settings={"against": "mixtures"}, placement="replace")
    with pytest.raises(UserError, match="mixes embeddings"):
        objective_of("patchmix", captions="joined")
