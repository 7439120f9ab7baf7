"""Mixed images in the place of some rows, which are partners of each other only."""

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
from timix_jax.mixing.joined import join_captions
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated

ROWS = np.arange(0, BATCH, 2)
AMONG = {"placement": "among", "fraction": 0.5, "ramp": 4, "ends_at": 20}


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


@jax.jit
def scores_of_rows(params, batch):
    """Return the predictor's scores (4, N), which do not depend on the other rows."""
    source = build_score_source("tpp", MODEL)
    whole = objective_of("timix", "tpp", placement="extra")
    forward = make_forward(MODEL, (whole,), params, batch, 0)
    return source(forward, "clean")[ROWS]


def mixed_by_hand(params, batch, how, mixed_rows, rule):
    """Return images (B, H, W, 3), and λ and π of the whole batch, for the rows of `ROWS` that γ selects."""
    scores, r = scores_of_rows(params, batch), int(how.window)
    partner, among = np.arange(BATCH), np.arange(4)[::-1]  # the flip, among four rows
    if rule == "derangement":  # as reported; if that were wrong, so would be the images below
        among = np.asarray(how.partner)[ROWS] // 2
        assert sorted(among) == [0, 1, 2, 3]
        assert (among[among] != np.arange(4)).any()  # not an involution: the direction matters
    partner[ROWS] = ROWS[among]
    images = pixels(batch["image"])
    mixed = images.copy()
    mixed[ROWS] = reference.mix_images(images[ROWS], scores, r, among, PATCH)
    clean = ~np.isin(np.arange(BATCH), mixed_rows)
    mixed[clean], partner[clean] = images[clean], np.arange(BATCH)[clean]
    lam = np.where(clean, 1, 1 - r * r / GRID**2)
    return mixed, lam, partner


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "mixed_rows", "rule"),
    [
        (2, [2, 6], "flip"),
        (9, [0, 2, 4, 6], "flip"),
        (9, [0, 2, 4, 6], "derangement"),
    ],
)
def test_values_and_gradients(params, batch, step, mixed_rows, rule):
    objective = objective_of("timix", "tpp", {"partner": rule}, **AMONG)
    value, log, grads, (how, _) = run(objective, params, batch, step)
    images, lam, partner = mixed_by_hand(params, batch, how, mixed_rows, rule)
    np.testing.assert_array_equal(how.partner, partner)
    np.testing.assert_allclose(how.lam, lam, rtol=1e-6)
    assert log["mixed_images"] == len(mixed_rows) / BATCH
    assert log["mixed_patches"] == pytest.approx((1 - lam).mean(), rel=1e-5)
    i2t, t2i = reference.hard_targets(lam, partner)
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    want = gradient_with_targets(
        params, images, batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


def test_joined_captions_and_pairs_left_out(params, batch):
    objective = objective_of("timix", "tpp", captions="joined", **AMONG)
    _, log, _, (how, _) = run(objective, params, batch, 9)
    other = batch["tokens"][np.asarray(how.partner)]
    joined = np.asarray(join_captions(jnp.asarray(batch["tokens"]), jnp.asarray(other), 0))
    mixed = np.isin(np.arange(BATCH), ROWS)
    np.testing.assert_array_equal(how.tokens, np.where(mixed[:, None], joined, batch["tokens"]))
    np.testing.assert_array_equal(how.apart, how.partner)
    assert np.asarray(how.partner)[~mixed].tolist() == np.arange(BATCH)[~mixed].tolist()
    assert np.asarray(how.lam).tolist() == [1] * BATCH
    assert log["mixed_captions"] == 0.5


def test_only_the_mixed_rows_are_scored(params, batch):
    """Scores need half a pass through the tower, and the captions of the mixed rows only."""
    calls = []

    class Counting(type(MODEL)):
        def encode_single_patches(self, params, patches):
            calls.append(("patches", len(patches)))
            return super().encode_single_patches(params, patches)

        def encode_text(self, params, tokens):
            calls.append(("text", len(tokens)))
            return super().encode_text(params, tokens)

    model = Counting(**{f.name: getattr(MODEL, f.name) for f in dataclasses.fields(MODEL)})
    objective = objective_of("timix", "single_patch", captions="joined", **AMONG)
    jax.eval_shape(lambda p: objective(make_forward(model, (objective,), p, batch, 9)).loss, params)
    assert sorted(calls) == [("patches", 4), ("text", 4), ("text", BATCH)]
    calls.clear()
    by_phrase = objective_of("timix", "single_patch", captions="phrases", **AMONG)
    jax.eval_shape(lambda p: by_phrase(make_forward(model, (by_phrase,), p, batch, 9)).loss, params)
    assert sorted(calls) == [("patches", 4), ("text", 4), ("text", 4), ("text", BATCH)]


@pytest.mark.slow
@pytest.mark.parametrize("captions", ["own", "joined", "phrases"])
def test_eight_devices_and_the_ring_give_the_same(params, captions):
    mesh, batch = make_mesh(), make_batch(16)
    batch.pop("regions")
    separators = tuple(np.unique(batch["tokens"][:, 2]).tolist())
    objective = objective_of("timix", "tpp", captions=captions, separators=separators, **AMONG)
    want, _, want_grads, _ = run(objective, params, batch, 9)
    ring = dataclasses.replace(objective, pairs=PairLoss(reduction=PairReduction("ring", 3, mesh)))
    arrays = jax.device_put(params, replicated(mesh)), jax.device_put(batch, batch_sharding(mesh))
    got, _, grads, _ = run(ring, *arrays, 9)
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_trees_close(grads, want_grads)


@pytest.mark.parametrize("name", ["hidden_text", "transmix"])
def test_mixers_of_embeddings_or_with_other_labels_are_refused(name):
    with pytest.raises(UserError, match="a mixer of images that knows its labels"):
        _ = objective_of(name, **AMONG).view


def test_kept_patches_are_refused(params, batch):
    with pytest.raises(UserError, match="images keep fewer patches; use 'replace'"):
        run(objective_of("packing", "tpp", **AMONG), params, batch, 9)
