"""A mixer with three partners whose weights do not add to 1: one step, every method for the pairs, a whole run."""

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
    mixed,
    pixels,
    run,
)
from sample_mixers import Quadrants
from tiny_model import GRID, PATCH, make_batch, make_params
from tiny_run import metrics, tiny_config

from timix_jax.mixing import MIXERS, Sample
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import DENSE, PairReduction
from timix_jax.objectives.pairs.targets import build_target
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from timix_jax.training.train import train_and_evaluate


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(MIXERS, "quadrants", Quadrants)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


def quadrants_by_hand(images):
    """Return pixels with one quadrant from each of the next three rows."""
    mixed_images = images.copy()
    half = GRID // 2 * PATCH
    for k in range(len(images)):
        for quadrant in (1, 2, 3):
            rows = slice(half * (quadrant // 2), half * (quadrant // 2) + half)
            columns = slice(half * (quadrant % 2), half * (quadrant % 2) + half)
            mixed_images[k, rows, columns] = images[(k + quadrant) % len(images), rows, columns]
    return mixed_images


def shares_by_hand(count, own=0.4, others=(0.35, 0.25, 0.15)):
    """Return the matrix of shares A (B, B)."""
    A = np.zeros((count, count))
    for k, scale in enumerate(np.linspace(0.8, 1.2, count)):
        A[k, k] += scale * own
        for distance, weight in enumerate(others, start=1):
            A[k, (k + distance) % count] += scale * weight
    return A


def quadrant_targets(count, logits, beta):
    """Return β·A + (1−β)·A·U, and the target of the other direction, whose rows add to 1."""
    A = shares_by_hand(count)
    U, Q = reference.softmax(logits), reference.softmax(logits.T)
    normalised = lambda rows: rows / rows.sum(axis=1, keepdims=True)
    i2t = beta * A + (1 - beta) * A @ U
    t2i = beta * normalised(A.T) + (1 - beta) * normalised(Q @ A.T)
    return i2t, t2i


@pytest.mark.slow
@pytest.mark.parametrize(("target", "beta"), [("hard", 1.0), ("blend", 0.3)])
def test_three_partners_through_the_model(params, batch, target, beta):
    objective = mixed("quadrants", target=target, beta=beta)
    value, log, grads, _ = run(objective, params, batch, 0)
    images = quadrants_by_hand(pixels(batch["image"]))
    i2t, t2i = quadrant_targets(BATCH, clean_logits(params, batch), beta)
    assert not np.allclose(shares_by_hand(BATCH).sum(axis=1), 1, atol=0.05)
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    assert log["lambda"] == pytest.approx(0.4, rel=1e-5)
    want = gradient_with_targets(
        params, images, batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


@pytest.mark.slow
def test_three_partners_on_eight_devices(params, batch):
    mesh = make_mesh()
    objective = mixed("quadrants", target="blend")
    want, _, want_grads, _ = run(objective, params, batch, 0)
    ring = dataclasses.replace(objective, pairs=PairLoss(reduction=PairReduction("ring", 3, mesh)))
    got, _, grads, _ = run(
        ring,
        jax.device_put(params, replicated(mesh)),
        jax.device_put(batch, batch_sharding(mesh)),
        0,
    )
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_trees_close(grads, want_grads)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_three_partners_dense_gather_and_ring(kind):
    rng = np.random.default_rng(4)
    count, mixer = 16, Quadrants(GRID)
    sides = rng.normal(size=(3, count, 8))
    sides /= np.linalg.norm(sides, axis=-1, keepdims=True)
    image, unmixed, text = jnp.float32(sides)
    how = mixer(jax.random.key(0), Sample(jnp.zeros((count, GRID**2, 1))))
    np.testing.assert_allclose(
        Shares.of(how, mixer.partners).matrix(), shares_by_hand(count), rtol=1e-6
    )

    def loss(image, text, pairs, target):
        s = Similarities(image, text, jnp.float32(0.2), jnp.float32(-1.5))
        shares = Shares.of(how, mixer.partners)
        seen = s._replace(image=unmixed, text=text).constant()
        return pairs.mixed(s, build_target(target, beta=0.3), shares, seen)

    def both(image, text, pairs):
        return loss(image, text, pairs, "hard") + 2 * loss(image, text, pairs, "blend")

    step = jax.jit(jax.value_and_grad(both, argnums=(0, 1)), static_argnums=2)
    want, want_grads = step(image, text, PairLoss(KINDS[kind]))
    expected = pair_losses_by_hand(kind, sides)
    assert want == pytest.approx(expected["hard"] + 2 * expected["blend"], rel=1e-5)
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        arrays = jax.device_put((image, text), batch_sharding(mesh))
        for reduction in (DENSE, PairReduction("gather", 5, mesh), PairReduction("ring", 3, mesh)):
            got, grads = step(*arrays, PairLoss(KINDS[kind], reduction))
            assert got == pytest.approx(float(want), rel=1e-5), reduction
            assert_trees_close(grads, want_grads, 5e-6)


def pair_losses_by_hand(kind, sides):
    """Return the losses of the targets "hard" and "blend" in float64."""
    image, unmixed, text = sides
    bias = -1.5
    S, clean = image @ text.T / 0.2, unmixed @ text.T / 0.2
    if kind == "softmax":
        return {
            name: reference.both_ways(S, *quadrant_targets(len(S), clean, beta))
            for name, beta in (("hard", 1.0), ("blend", 0.3))
        }
    A = shares_by_hand(len(S))
    predicted = A @ (1 / (1 + np.exp(-(clean + bias))))
    losses = {}
    for name, y in (("hard", A), ("blend", 0.3 * A + 0.7 * predicted)):
        pairs = np.log1p(np.exp(S + bias)) - y * (S + bias)
        losses[name] = pairs.sum(axis=1).mean()
    return losses


@pytest.mark.slow
def test_whole_run(tmp_path):
    """The configuration names the mixer and its settings; a mixer without windows draws no sheet."""
    config = tiny_config(
        2,
        mix__mixer="quadrants",
        mix__ramp="0 steps",
        mix__target="blend",
        pictures__examples=2,
    )
    config.mix.options.quadrants.own = 0.5
    train_and_evaluate(config, str(tmp_path))
    lines = [line for line in metrics(tmp_path) if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["lambda"] == pytest.approx(0.5, rel=1e-5)
        assert line["loss/mix"] > 0
    assert not list(tmp_path.rglob("mixing*.png"))
