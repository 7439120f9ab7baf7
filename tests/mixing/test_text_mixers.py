"""Hidden-text mixup and coin-flipping mixup: closed forms, and value and gradient through a tiny model."""

import jax
import jax.numpy as jnp
import method_reference as reference
import numpy as np
import pytest
from objective_runs import BATCH, MODEL, assert_trees_close, mixed, pixels, run
from tiny_model import make_batch, make_forward, make_params

from timix_jax.errors import UserError
from timix_jax.mixing import Mixed, Sample, build_mixer, with_captions
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.pairs.targets import Hard
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated

KEY = jax.random.key(2)
FLIP = np.arange(BATCH)[::-1]


class Unprojected(DualEncoder):
    """A model that does not say what its embeddings are before normalisation."""

    def encode_text(self, params, tokens):
        return super().encode_text(params, tokens)._replace(projected=None)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: make_batch(BATCH)[name] for name in ("image", "tokens")}


def targets_of_captions(lam, partner):
    """Return (i2t, t2i) where caption k shows λ of image k and 1−λ of image π(k)."""
    t2i, i2t = reference.hard_targets(np.broadcast_to(lam, partner.shape), partner)
    return np.float32(i2t), np.float32(t2i)


@jax.jit
def loss_by_hand(params, images, tokens, own, partner, i2t, t2i):
    """Return value and gradient; hidden states are mixed and then projected by the kernel itself."""

    def loss(params):
        image = MODEL.encode_image(params, MODEL.embed_patches(params, images)).embedding
        state = MODEL.encode_text(params, tokens).cls
        state = own[:, None] * state + (1 - own)[:, None] * state[partner]
        text = state @ params["text"]["projection"]["kernel"]
        text /= jnp.linalg.norm(text, axis=1, keepdims=True)
        s = image @ text.T / MODEL.temperature(params)
        rows = jnp.sum(i2t * jax.nn.log_softmax(s, axis=1))
        columns = jnp.sum(t2i * jax.nn.log_softmax(s.T, axis=1))
        return -(rows + columns) / (2 * len(images))

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    ("partner", "placement"),
    [
        pytest.param("flip", "extra", marks=pytest.mark.slow),
        pytest.param("derangement", "replace", marks=pytest.mark.slow),
        pytest.param("flip", "replace", marks=pytest.mark.slow),
        pytest.param("derangement", "extra", marks=pytest.mark.slow),
    ],
)
def test_hidden_text(params, batch, placement, partner):
    """A derangement is no involution: the image's target is the transpose of the caption's."""
    fraction = 1.0 if placement == "extra" else 0.5
    objective = mixed(
        "hidden_text", lam=0.7, partner=partner, placement=placement, fraction=fraction
    )
    value, log, grads, (how, _) = run(objective, params, batch, 1)
    partner = np.asarray(how.partner)
    changed = partner != np.arange(BATCH)
    assert changed.tolist() == ([True] * 8 if placement == "extra" else [False, True] * 4)
    own = np.where(changed, 0.7, 1).astype(np.float32)
    i2t, t2i = targets_of_captions(own, partner)
    want, want_grads = loss_by_hand(params, batch["image"], batch["tokens"], own, partner, i2t, t2i)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    assert log["mixed_captions"] == 0.5
    assert log["mixed_images"] == log["mixed_patches"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_coin_flip(params, batch, p):
    value, log, grads, (how, _) = run(mixed("coin_flip", p=p, alpha=1.0), params, batch, 3)
    lam = np.asarray(how.lam)
    assert np.unique(lam).size == 1
    assert 0.05 < lam[0] < 0.95
    images = pixels(batch["image"])
    own = np.ones(BATCH, np.float32)
    if p:
        images = lam[0] * images + (1 - lam[0]) * images[::-1]
        i2t, t2i = map(np.float32, reference.hard_targets(lam, FLIP))
    else:
        own, (i2t, t2i) = lam, targets_of_captions(lam, FLIP)
    np.testing.assert_allclose(how.image, images, atol=1e-6)
    want, want_grads = loss_by_hand(params, images, batch["tokens"], own, FLIP, i2t, t2i)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    assert log["mixed_images"] == (0.5 if p else 0)
    assert log["mixed_captions"] == (0 if p else 0.5)


def test_both_sides_of_the_coin():
    mixer, image = build_mixer("coin_flip", grid=4), jnp.linspace(-1, 1, 96).reshape(2, 4, 4, 3)
    keys = jax.random.split(KEY, 400)
    how = jax.jit(jax.vmap(lambda key: mixer(key, Sample(image))))(keys)
    assert abs(float(jnp.mean(how.by_caption)) - 0.5) < 0.1
    np.testing.assert_array_equal(
        (how.image == image).all(axis=(1, 2, 3, 4)), how.by_caption | (how.lam == 1).all(axis=1)
    )
    near = (how.lam[:, 0] < 0.1) | (how.lam[:, 0] > 0.9)
    assert abs(float(near.mean()) - 0.81) < 0.08  # Beta(0.1, 0.1)


@pytest.mark.parametrize(("lam", "loss"), [(0.5, 0.724077), (0.3, 0.674397)])
def test_a_linear_head_mixes_logits(lam, loss):
    """States (2, 0) and (0, 1) under the identity as head."""
    mixer = build_mixer("hidden_text", grid=2, lam=lam)
    how = mixer(KEY, Sample(jnp.zeros((2, 4, 1))))
    logits = mixer.mix_text(how, jnp.asarray([[2.0, 0.0], [0.0, 1.0]]))
    got = -jnp.sum(jnp.asarray([lam, 1 - lam]) * jax.nn.log_softmax(logits[0]))
    assert float(got) == pytest.approx(loss, abs=1e-6)
    if lam == 0.5:
        np.testing.assert_allclose(jax.nn.softmax(logits[0]), [0.622459, 0.377541], atol=1e-6)


def clip(s, order):
    """Return InfoNCE of rows k with columns order[k], in both directions: two cross-entropies of s (B, B)."""
    rows, columns = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (s, s.T))
    index = np.arange(len(s))
    return -(rows[index, order].mean() + columns[order, index].mean()) / 2


@pytest.mark.parametrize("by_caption", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_target_is_two_cross_entropies(x64, by_caption, lam):
    """λ·CE + (1−λ)·CE[π], for a π that is no involution; λ = 1 and 0 are plain InfoNCE."""
    image, text = np.random.default_rng(0).normal(size=(2, BATCH, 5))
    mixer = build_mixer("hidden_text", grid=2, partner="derangement")
    partner = np.asarray(mixer.partners.draw(KEY, BATCH))
    assert (partner[partner] != np.arange(BATCH)).any()
    how = Mixed(None, jnp.asarray(partner), jnp.full(BATCH, lam))
    s = Similarities(jnp.asarray(image), jnp.asarray(text), jnp.float64(0.5))
    got = DENSE_SOFTMAX.mixed(
        s.transposed_where(jnp.asarray(by_caption)), Hard(), Shares.of(how, mixer.partners)
    )
    matrix = (text @ image.T if by_caption else image @ text.T) / 0.5
    want = lam * clip(matrix, np.arange(BATCH)) + (1 - lam) * clip(matrix, partner)
    assert float(got) == pytest.approx(want, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hidden_text", pytest.param("coin_flip", marks=pytest.mark.slow)])
def test_ring_on_eight_devices(params, batch, name):
    mesh = make_mesh()
    options = {"partner": "derangement", "target": "blend"}
    want, _, want_grads, _ = run(mixed(name, **options), params, batch, 1)
    ring = mixed(name, pairs=PairLoss(reduction=PairReduction("ring", 3, mesh)), **options)
    split = jax.device_put(batch, batch_sharding(mesh))
    got, _, grads, _ = run(ring, jax.device_put(params, replicated(mesh)), split, 1)
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_trees_close(grads, want_grads)


@pytest.mark.parametrize("name", ["hidden_text", "coin_flip"])
def test_the_middle_row_of_an_odd_batch_stays(name):
    mixer = build_mixer(name, grid=2)
    how = mixer(KEY, Sample(jnp.ones((5, 4, 1) if mixer.space == "none" else (5, 4, 4, 3))))
    text = jax.random.normal(KEY, (5, 3))
    assert how.lam[2] == 1
    np.testing.assert_allclose(mixer.mix_text(how, text)[2], text[2])


def test_refusals(params, batch):
    with pytest.raises(UserError, match=r"lam=1\.5"):
        build_mixer("hidden_text", grid=2, lam=1.5)
    with pytest.raises(UserError, match=r"p=-1 is not a probability"):
        build_mixer("coin_flip", grid=2, p=-1)
    with pytest.raises(UserError, match="alpha=0"):
        build_mixer("coin_flip", grid=2, alpha=0)
    for name in ("hidden_text", "coin_flip"):
        with pytest.raises(UserError, match="needs a mixer of images"):
            with_captions(build_mixer(name, grid=2), "joined")
    objective = mixed("hidden_text")
    forward = make_forward(Unprojected(**vars(MODEL)), (objective,), params, batch, 0)
    with pytest.raises(UserError, match="which Unprojected does not return"):
        jax.eval_shape(lambda: objective(forward).loss)
