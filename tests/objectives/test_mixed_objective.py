"""The loss of mixed images on a tiny model, compared with the method in NumPy loops."""

import dataclasses

import jax
import jax.numpy as jnp
import method_reference as reference
import numpy as np
import pytest
from objective_runs import (
    BATCH,
    MODEL,
    SCORES,
    assert_trees_close,
    clean_logits,
    gradient_with_targets,
    mixed,
    mixed_batch,
    pixels,
    run,
)
from tiny_model import (
    GRID,
    PATCH,
    encode_site,
    make_batch,
    make_forward,
    make_params,
    tiny_model,
)

from timix_jax.errors import UserError
from timix_jax.objectives import build_objective
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


def check_against_pixels(objective, params, batch, step, gamma=1.0):
    """Compare value and gradient with the loss of images that the reference mixes; return the window's side."""
    value, log, grads, (how, scores) = run(objective, params, batch, step)
    r = int(how.window)
    low, high = reference.windows(np.asarray(scores), r)
    np.testing.assert_array_equal(how.low, low)
    np.testing.assert_array_equal(how.high, high)
    partner = np.asarray(how.partner)
    if objective.mixer.partner == "flip":
        assert partner.tolist() == list(range(BATCH))[::-1]
    assert sorted(partner) == list(range(BATCH))
    lam = np.full(BATCH, 1 - r * r / GRID**2)
    if getattr(objective.mixer, "lambda_by", "area") == "area":
        np.testing.assert_allclose(how.lam, lam, rtol=1e-6)
    lam = np.float64(how.lam)
    assert log["lambda"] == pytest.approx(lam.mean(), rel=1e-6)
    assert log["window"] == r
    images = reference.mix_images(pixels(batch["image"]), scores, r, partner, PATCH)
    i2t, t2i = reference.targets(
        objective.target, lam, partner, clean_logits(params, batch), objective.beta
    )
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(gamma * reference.both_ways(S, i2t, t2i), rel=2e-5)
    assert log["gamma"] == pytest.approx(gamma, rel=1e-6)
    want = gradient_with_targets(
        params, images, batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, jax.tree.map(lambda g: gamma * g, want))
    return r


@pytest.mark.parametrize(
    "options",
    [
        {"target": "hard", "score": "tpp"},
        pytest.param({"target": "pred", "score": "similarity"}, marks=pytest.mark.slow),
        pytest.param(
            {"target": "pred_shared", "score": "oracle", "lambda_by": "mass"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"target": "blend", "score": "attention", "beta": 0.3, "partner": "derangement"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda options: options["target"],
)
def test_mixed_loss_is_that_of_pixel_mixed_images(params, batch, options):
    """Scores and targets are constants in the reference, so no gradient may flow through them."""
    objective = mixed(**options)
    sides = {check_against_pixels(objective, params, batch, step) for step in range(5)}
    assert len(sides) > 1
    assert sides <= {1, 2, 3}


@pytest.mark.slow
def test_ramp_and_until(params, batch):
    objective = mixed(ramp=4, ends_at=6)
    for step in (1, 3, 4, 5):
        check_against_pixels(objective, params, batch, step, gamma=min(step / 4, 1))
    for step in (0, 6, 50):
        value, log, grads, _ = run(objective, params, batch, step)
        assert value == 0
        assert log["gamma"] == 0
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_a_fraction_is_a_separate_batch(params, batch):
    rows = [0, 2, 4, 6]
    part = {name: value[rows] for name, value in batch.items()}
    whole = mixed(target="pred")
    half = dataclasses.replace(whole, fraction=0.5)
    got, log, grads, _ = run(half, params, batch, 1)
    want, want_log, want_grads, _ = run(whole, params, part, 1)
    assert got == pytest.approx(float(want), rel=1e-5)
    assert log["lambda"] == want_log["lambda"]
    assert_trees_close(grads, want_grads)


@pytest.mark.parametrize(
    ("step", "fraction", "rows"),
    [
        (1, 1.0, [3, 7]),  # γ = 1/4 of the rows
        (2, 1.0, [1, 3, 5, 7]),
        (9, 1.0, list(range(8))),
        (2, 0.5, [3, 7]),
        (9, 0.5, [1, 3, 5, 7]),
    ],
)
def test_replaced_rows(params, batch, step, fraction, rows):
    objective = mixed(placement="replace", ramp=4, ends_at=20, fraction=fraction)
    value, _, grads, (how, scores) = run(objective, params, batch, step)
    selected = np.isin(np.arange(BATCH), rows)
    partner = np.where(selected, np.arange(BATCH)[::-1], np.arange(BATCH))
    np.testing.assert_array_equal(how.partner, partner)
    r = int(how.window)
    lam = np.where(selected, 1 - r * r / GRID**2, 1.0)
    np.testing.assert_allclose(how.lam, lam, rtol=1e-6)
    images = reference.mix_images(pixels(batch["image"]), scores, r, partner, PATCH)
    np.testing.assert_array_equal(images[~selected], pixels(batch["image"])[~selected])
    i2t, t2i = reference.hard_targets(lam, partner)
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    want = gradient_with_targets(
        params, images, batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


def test_replace_without_mixing_is_the_plain_loss(params, batch):
    objective = mixed(placement="replace", ramp=4, ends_at=20)
    value, log, grads, _ = run(objective, params, batch, 20)
    want, _, want_grads, _ = run(build_objective("itc"), params, batch, 20)
    assert value == pytest.approx(float(want), rel=1e-6)
    assert log["lambda"] == 1
    assert_trees_close(grads, want_grads, 1e-6)


def expected_scores(params, batch, name):
    """Compute scores (B, N) from whole passes by their definitions; None for random scores."""
    patches = MODEL.embed_patches(params, batch["image"])
    text = MODEL.encode_text(params, batch["tokens"])
    if name == "tpp":
        site = encode_site(MODEL, params, patches)
        return reference.z_score(MODEL.patch_logp(params, site, text.cls)[..., 1])
    if name == "similarity":
        final = MODEL.encode_image(params, patches).patches
        kernel = params["image"]["projection"]["kernel"]
        projected = np.float64(final) @ np.float64(kernel)
        projected /= np.linalg.norm(projected, axis=-1, keepdims=True)
        return reference.z_score(np.einsum("bnd,bd->bn", projected, np.float64(text.embedding)))
    if name == "attention":
        tokens = MODEL.encode_blocks(params, patches, (1,))[1]
        layer = jax.tree.map(lambda p: np.float64(p[2]), params["image"]["blocks"]["layers"])
        x = np.float64(tokens)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * layer["norm1"]["scale"] + layer["norm1"]["bias"]
        qkv = layer["attention"]["qkv"]
        seen = np.zeros((BATCH, GRID**2))
        for head in range(2):
            q = x[:, 0] @ qkv["kernel"][:, 0, head] + qkv["bias"][0, head]
            k = x @ qkv["kernel"][:, 1, head] + qkv["bias"][1, head]
            logits = np.einsum("bd,btd->bt", q, k) / np.sqrt(8)
            seen += reference.softmax(logits)[:, 1:] / 2
        return reference.z_score(seen)
    return None


@pytest.mark.slow
def test_scores_agree_between_placements(params, batch):
    @jax.jit
    def all_scores(params):
        def of(*objectives):
            return mixed_batch(make_forward(MODEL, objectives, params, batch, 2))[1]

        found = {}
        for name in SCORES:
            extra = mixed(score=name)
            replace = dataclasses.replace(extra, placement="replace")
            # Another objective that needs the clean pass must not change the scores.
            found[name] = of(extra), of(replace), of(build_objective("itc"), replace)
        return found

    for name, (extra, replace, in_company) in all_scores(params).items():
        assert np.std(extra, axis=1).min() > 0.01
        np.testing.assert_allclose(replace, extra, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(in_company, extra, atol=1e-4, err_msg=name)
        expected = expected_scores(params, batch, name)
        if expected is not None:
            np.testing.assert_allclose(extra, expected, atol=1e-3, err_msg=name)


def test_cutmix_through_the_model(params, batch):
    value, _, grads, (how, _) = run(mixed("cutmix"), params, batch, 1)
    own = pixels(batch["image"])
    taken = np.abs(np.asarray(how.image) - own) > 1e-6
    box = taken.any(axis=(0, 3))
    assert 0 < box.sum() < box.size
    rows, columns = np.nonzero(box.any(1))[0], np.nonzero(box.any(0))[0]
    assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle
    images = np.where(box[None, :, :, None], own[::-1], own)
    np.testing.assert_allclose(how.image, images, atol=1e-6)
    lam = np.full(BATCH, 1 - box.mean())
    np.testing.assert_allclose(how.lam, lam, rtol=1e-5)
    check_hard_loss(params, batch, images, lam, value, grads)


def test_mixup_through_the_model(params, batch):
    value, _, grads, (how, _) = run(mixed("mixup", placement="replace"), params, batch, 1)
    lam = np.asarray(how.lam)
    assert np.unique(lam).size == 1
    assert 0.01 < lam[0] < 0.99
    own = pixels(batch["image"])
    images = lam[0] * own + (1 - lam[0]) * own[::-1]
    check_hard_loss(params, batch, images, lam, value, grads)


def check_hard_loss(params, batch, images, lam, value, grads):
    i2t, t2i = reference.hard_targets(lam, np.arange(BATCH)[::-1])
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    want = gradient_with_targets(
        params, images, batch["tokens"], jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timix", {"target": "pred", "score": "similarity"}),
        ("timix", {"placement": "replace", "ramp": 4, "ends_at": 20, "fraction": 0.5}),
        ("cutmix", {}),
    ],
)
def test_sharded_batch_gives_the_same(params, batch, name, options):
    mesh = make_mesh()
    objective = mixed(name, **options)
    whole, split = replicated(mesh), batch_sharding(mesh)
    want, _, want_grads, (one, _) = run(objective, params, batch, 1)
    got, _, grads, (eight, _) = run(
        objective, jax.device_put(params, whole), jax.device_put(batch, split), 1
    )
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_trees_close(grads, want_grads)
    np.testing.assert_array_equal(eight.partner, one.partner)
    np.testing.assert_allclose(eight.image, one.image, atol=1e-5)
    if one.window is not None:
        assert eight.window == one.window
        np.testing.assert_array_equal(eight.low, one.low)
        np.testing.assert_array_equal(eight.high, one.high)


def test_settings_that_cannot_work():
    with pytest.raises(UserError, match="placement"):
        mixed(placement="instead")
    with pytest.raises(UserError, match="clean similarities"):
        mixed(placement="replace", target="pred")
    with pytest.raises(UserError, match="fraction"):
        mixed(fraction=0.0)
    with pytest.raises(UserError, match=r"itc\.alpha"):
        build_objective("itc", alpha=1.5)
    with pytest.raises(UserError, match="unknown"):
        build_objective("itn")
    with pytest.raises(UserError, match="unknown"):
        build_score_source("saliency", MODEL)
    with pytest.raises(UserError, match="CLS token"):
        build_score_source("attention", tiny_model(pool="gap"))
