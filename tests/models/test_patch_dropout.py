"""Patch dropout: which patches stay, how the tower encodes them, and which readers still see all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import method_reference as reference
import numpy as np
import pytest
from objective_runs import mixed_batch
from tiny_model import GRID, make_batch, make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.mixing import build_mixer
from timix_jax.models.patch_dropout import draw_kept, kept_count
from timix_jax.objectives import build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source


@pytest.mark.parametrize(
    ("patches", "rate", "count"), [(25, 0.5, 12), (16, 0.0, 16), (256, 0.75, 64), (4, 0.99, 1)]
)
def test_count(patches, rate, count):
    assert kept_count(patches, rate) == count
    assert draw_kept(jax.random.key(0), 3, patches, rate).shape == (3, count)


def test_all_subsets_are_equally_likely():
    kept = np.sort(draw_kept(jax.random.key(0), 6000, 4, 0.5), axis=1)
    subsets, counts = np.unique(kept, axis=0, return_counts=True)
    assert [tuple(s) for s in subsets] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    # 1,000 each, give or take 29: five standard deviations.
    assert np.all(np.abs(counts - 1000) < 145)


@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_the_tower_is_that_of_a_smaller_image(pool):
    """The kept patches of one corner give the same result as a 2 x 2 model with their positions."""
    model = tiny_model(pool=pool)
    params = make_params(model)
    patches = model.embed_patches(params, make_batch()["image"])
    kept = jnp.tile(jnp.array([[11, 2, 7, 13]]), (len(patches), 1))
    got = model.encode_image(params, patches, kept=kept, blocks=(1,))
    small = dataclasses.replace(model, image=model.image._replace(image_size=8))
    positions = params["image"]["pos_embed"][:, kept[0]]
    small_params = {**params, "image": {**params["image"], "pos_embed": positions}}
    want = small.encode_image(small_params, patches[:, kept[0]], blocks=(1,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


def test_order_does_not_matter_and_all_patches_are_the_whole_image():
    model = tiny_model()
    params = make_params(model)
    patches = model.embed_patches(params, make_batch()["image"])
    kept = draw_kept(jax.random.key(1), len(patches), GRID**2, 0.0)
    assert (np.sort(kept, axis=1) == np.arange(GRID**2)).all()
    got = model.encode_image(params, patches, kept=kept).embedding
    np.testing.assert_allclose(got, model.encode_image(params, patches).embedding, atol=1e-6)


def test_each_step_draws_other_patches_reproducibly():
    model = tiny_model(patch_dropout=0.5)
    params = make_params(model)
    batch = make_batch()
    objectives = (build_objective("itc"),)
    seen = {}
    for step in (1, 2):
        forward = make_forward(model, objectives, params, batch, step)
        assert forward.image().patches.shape[1] == GRID**2 // 2
        seen[step] = np.asarray(forward.image().embedding)
        again = make_forward(model, objectives, params, batch, step)
        np.testing.assert_array_equal(again.image().embedding, seen[step])
    assert np.abs(seen[1] - seen[2]).max(axis=1).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("score", ["tpp", "similarity", "attention"])
@pytest.mark.parametrize("placement", ["extra", "replace"])
def test_scores_see_every_patch(score, placement):
    batch, whole = make_batch(), tiny_model()
    params = make_params(whole)
    found = []
    for model in (whole, tiny_model(patch_dropout=0.5)):
        mix = MixedContrastive(
            build_mixer("timix", grid=GRID), build_score_source(score, model), placement=placement
        )
        forward = make_forward(model, (build_objective("itc"), mix), params, batch, 2)
        found.append(mixed_batch(forward))
    (with_all, scores), (with_dropout, scores_too) = found
    np.testing.assert_allclose(scores_too, scores, atol=2e-5)
    np.testing.assert_array_equal(with_dropout.image, with_all.image)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["extra", "replace"])
def test_the_mixed_view_draws_its_own_patches(placement):
    batch, model = make_batch(), tiny_model(patch_dropout=0.5)
    params = make_params(model)
    mix = MixedContrastive(
        build_mixer("timix", grid=GRID), build_score_source("tpp", model), placement=placement
    )
    forward = make_forward(model, (mix,), params, batch, 2)
    mixed, _ = mixed_batch(forward)
    i2t, t2i = reference.hard_targets(np.asarray(mixed.lam), np.asarray(mixed.partner))

    def loss(stream):
        kept = model.draw_kept(forward.stream(stream), len(batch["image"]))
        image = model.encode_image(params, mixed.image, kept=kept).embedding
        logits = np.float64(image) @ np.float64(forward.text().embedding).T
        return reference.both_ways(logits / float(model.temperature(params)), i2t, t2i)

    value = mix(forward).loss
    assert value == pytest.approx(loss("patch_dropout/mixed"), rel=2e-5)
    assert value != pytest.approx(loss("patch_dropout"), rel=1e-3)


def test_rates_outside_zero_to_one_are_refused():
    with pytest.raises(UserError, match=r"model\.image\.patch_dropout=1\.0 is not a share"):
        tiny_model(patch_dropout=1.0)
