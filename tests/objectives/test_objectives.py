"""The objectives of clean images on a tiny model, compared with the method in NumPy loops."""

from types import SimpleNamespace

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
    embeddings,
    gradient_with_targets,
    pixels,
    run,
)
from tiny_model import GRID, encode_site, make_batch, make_forward, make_params

from timix_jax.errors import UserError
from timix_jax.objectives import build_objective
from timix_jax.objectives.views import Inputs


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


def test_contrastive_value_and_gradient():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    image, text = (unit(rng.standard_normal((BATCH, 8))) for _ in range(2))

    def loss(image, text, log_tau):
        forward = SimpleNamespace(
            model=MODEL,
            params={"log_temperature": log_tau},
            view=lambda name: Inputs(),
            embeddings=lambda name: (image, text),
        )
        return build_objective("itc")(forward).loss

    tau = 0.2
    value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2))(
        jnp.float32(image), jnp.float32(text), jnp.log(tau)
    )
    S = image @ text.T / tau
    assert value == pytest.approx(reference.both_ways(S, np.eye(BATCH), np.eye(BATCH)), rel=1e-5)
    rows, columns = reference.softmax(S), reference.softmax(S.T).T
    dS = (rows + columns - 2 * np.eye(BATCH)) / (2 * BATCH)
    np.testing.assert_allclose(grads[0], dS @ text / tau, atol=1e-6)
    np.testing.assert_allclose(grads[1], dS.T @ image / tau, atol=1e-6)
    assert grads[2] == pytest.approx(-(dS * S).sum(), rel=1e-4)


def test_accuracy_counts_ties_as_misses(params, batch):
    _, log, _, _ = run(build_objective("itc"), params, batch, 0)
    S = clean_logits(params, batch)
    hits = [
        all(S[k, k] > S[k, j] and S[k, k] > S[j, k] for j in range(BATCH) if j != k)
        for k in range(BATCH)
    ]
    assert log["batch_accuracy"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(("step", "alpha"), [(0, 0.0), (3, 0.3), (4, 0.4), (9, 0.4)])
def test_teacher_targets_ramp_and_are_constant(params, batch, step, alpha):
    teacher = make_params(MODEL, seed=7)
    objective = build_objective("itc", alpha=0.4, alpha_steps=4)
    value, _, grads, _ = run(objective, params, batch, step, teacher)
    image, text, _ = map(np.float64, embeddings(teacher, batch["image"], batch["tokens"]))
    tau = float(MODEL.temperature(params))
    T = image @ text.T / tau
    eye = np.eye(BATCH)
    i2t = alpha * reference.softmax(T) + (1 - alpha) * eye
    t2i = alpha * reference.softmax(T.T) + (1 - alpha) * eye
    assert value == pytest.approx(
        reference.both_ways(clean_logits(params, batch), i2t, t2i), rel=1e-5
    )
    want = gradient_with_targets(
        params, pixels(batch["image"]), batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


def test_teacher_gets_no_gradient_and_must_exist(params, batch):
    objective = build_objective("itc", alpha=0.4)

    @jax.jit
    def loss(teacher):
        return objective(make_forward(MODEL, (objective,), params, batch, 0, teacher)).loss

    teacher = make_params(MODEL, seed=7)
    for leaf in jax.tree.leaves(jax.grad(loss)(teacher)):
        assert not np.any(leaf)
    with pytest.raises(UserError, match=r"optim\.ema"):
        objective(make_forward(MODEL, (objective,), params, batch, 0))


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_patch_text_alignment(params, full):
    batch = make_batch(BATCH)
    value, log, grads, _ = run(build_objective("pta", full_captions=full), params, batch, 0)

    @jax.jit
    def log_probabilities(image, tokens):
        site = encode_site(MODEL, params, MODEL.embed_patches(params, image[None]))
        return MODEL.patch_logp(params, site, MODEL.encode_text(params, tokens[None]).cls)[0]

    regions = batch["regions"]
    losses, hits = [], []
    for p, k in zip(*np.nonzero(regions["mask"]), strict=True):
        logp = np.float64(log_probabilities(regions["image"][p], regions["tokens"][p, k]))
        for n, label in enumerate(reference.patch_labels(regions["boxes"][p, k], GRID)):
            losses.append(-logp[n, label])
            hits.append(logp[n, label] > logp[n, 1 - label])
    if full:
        for image, tokens in zip(batch["image"], batch["tokens"], strict=True):
            losses.extend(-np.float64(log_probabilities(image, tokens))[:, 1])
    assert 0 < regions["mask"].sum() < regions["mask"].size
    assert value == pytest.approx(np.mean(losses), rel=1e-5)
    assert log["pta_accuracy"] == pytest.approx(np.mean(hits), rel=1e-5)
    check_reach_of_alignment(grads)


def check_reach_of_alignment(grads):
    """Predictor, stem, blocks up to the predictor's and text encoder get a gradient, later parts none."""
    largest = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
    blocks = grads["image"]["blocks"]["layers"]
    for layer in range(3):
        norms = largest(jax.tree.map(lambda g, i=layer: g[i], blocks))
        assert (norms > 1e-6) == (layer <= MODEL.tpp_layer), layer
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["patch_predictor"])) > 0
    for name in ("patch_embed", "pos_embed"):
        assert largest(grads["image"][name]) > 1e-6
    for name in ("norm", "projection"):
        assert largest(grads["image"][name]) == 0
    for name in ("word_embed", "blocks"):
        assert largest(grads["text"][name]) > 1e-6
    assert largest(grads["text"]["projection"]) == 0
    assert grads["log_temperature"] == 0
