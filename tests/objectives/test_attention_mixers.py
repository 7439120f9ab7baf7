"""TransMix and SMMix, whose labels or windows follow the attention of [CLS], through a tiny model."""

import dataclasses

import jax
import jax.numpy as jnp
import method_reference as reference
import numpy as np
import pytest
from counting_model import counting
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
from tiny_model import GRID, PATCH, make_batch, make_forward, make_params, tiny_model
from tiny_run import tiny_config

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX
from timix_jax.training.build.mix import MixSettings, build_mix

pytestmark = pytest.mark.slow

N = GRID**2
FLIPPED = np.arange(BATCH)[::-1]


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


@jax.jit
def attended_tokens(params, images):
    return MODEL.encode_blocks(params, MODEL.embed_patches(params, images), (1,))[1]


def cls_attention(params, images):
    """Return the attention (B, N) of [CLS] in the last block, in NumPy."""
    tokens = attended_tokens(params, images)
    layer = jax.tree.map(lambda p: np.float64(p[2]), params["image"]["blocks"]["layers"])
    x = np.float64(tokens)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * layer["norm1"]["scale"] + layer["norm1"]["bias"]
    qkv = layer["attention"]["qkv"]
    seen = np.zeros((len(x), N))
    for head in range(2):
        q = x[:, 0] @ qkv["kernel"][:, 0, head] + qkv["bias"][0, head]
        k = x @ qkv["kernel"][:, 1, head] + qkv["bias"][1, head]
        seen += reference.softmax(np.einsum("bd,btd->bt", q, k) / np.sqrt(8))[:, 1:] / 2
    return seen


@pytest.mark.parametrize(
    ("share", "options", "rows"),
    [
        (0.5, {}, range(8)),
        (1.0, {"placement": "replace", "fraction": 0.5}, [1, 3, 5, 7]),
        pytest.param(0.5, {"fraction": 0.5}, [0, 2, 4, 6], marks=pytest.mark.slow),
    ],
    ids=["extra", "replace", "half"],
)
def test_transmix_labels_are_the_attention_of_the_mixed_images(params, batch, share, options, rows):
    objective = objective_of("transmix", settings={"attention_share": share}, **options)
    value, log, grads, (how, _) = run(objective, params, batch, 1)
    if objective.placement == "extra":
        batch = {name: values[list(rows)] for name, values in batch.items()}
    own = pixels(batch["image"])
    count = len(own)
    selected = np.isin(np.arange(count), list(rows)) if count == BATCH else np.ones(count, bool)
    partner = np.where(selected, np.arange(count)[::-1], np.arange(count))
    images = np.asarray(how.image)
    box = (np.abs(images - own) > 1e-6).any(axis=(0, 3))
    assert 0 < box.sum() < box.size
    np.testing.assert_allclose(
        images, np.where(box[None, :, :, None], own[partner], own), atol=1e-6
    )
    covered = box.reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3)).reshape(-1)
    attention = cls_attention(params, images)
    attended = attention @ covered / attention.sum(axis=1)
    weight = np.where(selected, (1 - share) * box.mean() + share * attended, 0)
    assert np.ptp(weight[selected]) > 1e-3  # by row
    i2t, t2i = reference.hard_targets(1 - weight, partner)
    S = clean_logits(params, {**batch, "image": images})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    assert log["lambda"] == pytest.approx(np.mean(1 - weight), rel=1e-5)
    shown = count if objective.placement == "replace" else count + BATCH
    assert log["mixed_patches"] == pytest.approx(selected.sum() * box.mean() / shown, rel=1e-5)
    targets = jnp.float32(i2t), jnp.float32(t2i)  # constants: no gradient through the labels
    assert_trees_close(grads, gradient_with_targets(params, images, batch["tokens"], *targets))


def test_transmix_needs_no_pass_of_its_own(params, batch):
    for dropout, passes in ((0.0, {"encode_image"}), (0.5, {"encode_image", "encode_blocks"})):
        model = counting(dataclasses.replace(MODEL, patch_dropout=dropout))
        objective = objective_of("transmix")

        def loss(params, model=model, objective=objective):
            return objective(make_forward(model, (objective,), params, batch, 0)).loss

        jax.eval_shape(jax.grad(loss), params)
        assert {name for name, *_ in model.passes if name != "encode_text"} == passes
        assert set(model.passes.values()) == {1}


def test_smmix_is_timix_by_attention_with_the_sum_of_two_targets(params, batch):
    smmix = objective_of("smmix", "attention", target="blend", beta=0.5)
    value, *_, (how, scores) = run(smmix, params, batch, 1)
    r, lam = int(how.window), np.asarray(how.lam)
    images = reference.mix_images(pixels(batch["image"]), scores, r, FLIPPED, PATCH)
    S, clean = clean_logits(params, {**batch, "image": images}), clean_logits(params, batch)
    hard = reference.both_ways(S, *reference.hard_targets(lam, FLIPPED))
    pred = reference.both_ways(S, *reference.pred_targets(lam, FLIPPED, clean))
    assert 2 * value == pytest.approx(hard + pred, rel=2e-5)
    np.testing.assert_allclose(
        scores, reference.z_score(cls_attention(params, batch["image"])), atol=1e-4
    )


def test_settings_that_cannot_work():
    with pytest.raises(UserError, match=r"mix.score='tpp': SMMix is defined by mix.score='attenti"):
        objective_of("smmix", "tpp")
    with pytest.raises(UserError, match=r"mix.score='tpp\+ema:attention': SMMix"):
        objective_of("smmix", "tpp+ema:attention")
    assert objective_of("smmix", "ema:attention").score.teacher
    settings = MixSettings.read(tiny_config(mix__mixer="transmix"))
    build = lambda model: build_mix(settings, model, DENSE_SOFTMAX, lambda text, field: 10)
    assert build(MODEL) is not None
    with pytest.raises(UserError, match=r"mix.mixer='transmix'\) needs a CLS token"):
        build(tiny_model(pool="gap"))
