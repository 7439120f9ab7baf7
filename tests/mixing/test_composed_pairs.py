"""MixGen and CLIP-C: images and captions by hand, and the loss with its excluded pairs through a tiny model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_runs import BATCH, MODEL, assert_trees_close, embeddings, mixed, pixels, run
from tiny_model import make_batch, make_params

from timix_jax.errors import UserError
from timix_jax.mixing import Sample, build_mixer, with_captions
from timix_jax.mixing.joined import join_captions
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated

pytestmark = pytest.mark.slow

KEY = jax.random.key(4)
SEPARATOR = 2


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    """Return a batch whose captions end with [SEP]."""
    batch = {name: make_batch(BATCH)[name] for name in ("image", "tokens")}
    last = np.sum(batch["tokens"] != 0, axis=1) - 1
    batch["tokens"][np.arange(BATCH), last] = SEPARATOR
    return batch


def mix_images(name, images, partner):
    """Mix float images with their partners' as the papers say; a row that is its own partner stays."""
    out = np.array(images)
    width = images.shape[2]
    for k, other in enumerate(partner):
        if k == other:
            continue
        if name == "mixgen":
            out[k] = (images[k] + images[other]) / 2
        else:
            middle = slice(width // 4, width // 4 + width // 2)
            out[k] = np.concatenate([images[k][:, middle], images[other][:, middle]], axis=1)
    return out


def mix_tokens(tokens, partner):
    joined = join_captions(jnp.asarray(tokens), jnp.asarray(tokens[partner]), 0)
    itself = partner == np.arange(len(partner))
    return np.where(itself[:, None], tokens, joined)


@jax.jit
def loss_by_hand(params, images, tokens, compared):
    """Return value and gradient of InfoNCE over the compared pairs, each image with its own caption."""

    def loss(params):
        image, text, tau = embeddings(params, images, tokens)
        s = jnp.where(compared, image @ text.T / tau, -jnp.inf)
        partition = jax.nn.logsumexp(s, axis=1) + jax.nn.logsumexp(s, axis=0)
        return jnp.mean(partition / 2 - jnp.diagonal(s))

    return jax.value_and_grad(loss)(params)


def expected_partner(name, placement, how):
    """Return the rows of the batch that take part, and their partners by the papers' rules."""
    if placement == {"placement": "extra", "fraction": 0.5}:
        rows = np.array([0, 2, 4, 6])
        partner = np.array([1, 1, 2, 3])
    else:
        rows = np.arange(BATCH)
        partner = np.array([2, 3, 2, 3, 4, 5, 6, 7])
    if name == "clip_c":
        partner = np.asarray(how.partner)
        selected = partner != np.arange(len(rows))
        if placement["placement"] == "replace":
            assert selected.tolist() == [False, True] * 4
        else:
            assert sorted(partner) == list(range(len(rows)))
            assert selected.all()
    return rows, partner


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        ("mixgen", {"placement": "replace", "fraction": 1.0}),
        ("mixgen", {"placement": "extra", "fraction": 0.5}),
        ("clip_c", {"placement": "replace", "fraction": 0.5}),
        ("clip_c", {"placement": "extra", "fraction": 0.5}),
    ],
)
def test_value_and_gradient(params, batch, name, placement):
    value, log, grads, (how, _) = run(mixed(name, **placement), params, batch, 1)
    rows, partner = expected_partner(name, placement, how)
    np.testing.assert_array_equal(how.partner, partner)
    images, tokens = pixels(batch["image"])[rows], batch["tokens"][rows]
    images, tokens = mix_images(name, images, partner), mix_tokens(tokens, partner)
    np.testing.assert_allclose(how.image, images, atol=1e-6)
    np.testing.assert_array_equal(how.tokens, tokens)
    index = np.arange(len(rows))
    compared = np.ones((len(rows), len(rows)), bool)
    compared[index, partner] = compared[partner, index] = False
    compared[index, index] = True
    want, want_grads = loss_by_hand(params, images, tokens, compared)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    shown = len(rows) if placement["placement"] == "replace" else len(rows) + BATCH
    count = np.sum(partner != index)
    assert log["mixed_images"] == pytest.approx(count / shown)
    assert log["mixed_patches"] == pytest.approx(count / 2 / shown)
    assert log["mixed_captions"] == pytest.approx(count / shown)


@pytest.mark.parametrize("name", ["mixgen", pytest.param("clip_c", marks=pytest.mark.slow)])
def test_ring_on_eight_devices(params, batch, name):
    mesh = make_mesh()
    options = {"placement": "replace", "fraction": 0.5}
    want, _, want_grads, _ = run(mixed(name, **options), params, batch, 1)
    ring = mixed(name, pairs=PairLoss(reduction=PairReduction("ring", 3, mesh)), **options)
    split = jax.device_put(batch, batch_sharding(mesh))
    got, _, grads, _ = run(ring, jax.device_put(params, replicated(mesh)), split, 1)
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_trees_close(grads, want_grads)


@pytest.mark.parametrize(
    ("batch", "share", "partner"),
    [
        (8, 0.25, [2, 3, 2, 3, 4, 5, 6, 7]),
        (9, 0.25, [2, 3, 2, 3, 4, 5, 6, 7, 8]),
        (3, 0.25, [1, 1, 2]),  # at least one
        (6, 0.5, [3, 4, 5, 3, 4, 5]),
        (5, 1.0, [2, 3, 4, 0, 1]),
        (1, 1.0, [0]),
    ],
)
def test_mixgen_rows(batch, share, partner):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (batch, 4, 4, 3)), jnp.float32)
    tokens = jnp.asarray([[1, 10 + k, SEPARATOR, 0, 0] for k in range(batch)])
    how = build_mixer("mixgen", grid=2, share=share, lam=0.75)(KEY, Sample(image, tokens))
    assert how.partner.tolist() == partner
    for k, other in enumerate(partner):
        words = [10 + k] if k == other else [10 + k, 10 + other]
        assert [t for t in how.tokens[k].tolist() if t > SEPARATOR] == words
        np.testing.assert_allclose(
            how.image[k], 0.75 * image[k] + 0.25 * image[other], rtol=1e-5, atol=1e-6
        )
    itself = np.array(partner) == np.arange(batch)
    np.testing.assert_allclose(how.pasted, np.where(itself, 0, 0.25))


def test_clip_c_takes_the_middle_of_both():
    columns = jnp.arange(10.0) / 10
    image = jnp.stack([columns, -columns, columns])[:, None, :, None] * jnp.ones((1, 2, 1, 3))
    tokens = jnp.asarray([[1, 10 + k, SEPARATOR, 0, 0] for k in range(3)])
    how = build_mixer("clip_c", grid=2, partner="flip")(KEY, Sample(image, tokens))
    np.testing.assert_allclose(
        how.image[0, 0, :, 0], np.array([2, 3, 4, 5, 6, 2, 3, 4, 5, 6]) / 10, rtol=1e-6
    )
    np.testing.assert_array_equal(how.image[1], image[1])  # its own partner
    assert how.tokens.tolist() == [
        [1, 10, 12, SEPARATOR, 0],
        [1, 11, SEPARATOR, 0, 0],
        [1, 12, 10, SEPARATOR, 0],
    ]
    np.testing.assert_allclose(how.pasted, [0.5, 0, 0.5])


def test_refusals():
    for name in ("mixgen", "clip_c"):
        mixer = build_mixer(name, grid=2)
        with pytest.raises(UserError, match=r"joins captions by itself; use 'own'"):
            with_captions(mixer, "joined")
        with pytest.raises(UserError, match="needs captions"):
            mixer(KEY, Sample(jnp.zeros((4, 4, 4, 3))))
        for options in ({"target": "pred"}, {"label_smoothing": 0.1}):
            with pytest.raises(UserError, match="one positive pair"):
                mixed(name, **options)
    for options, message in (({"share": 0.0}, r"share=0\.0"), ({"lam": 1.0}, r"lam=1\.0")):
        with pytest.raises(UserError, match=message):
            build_mixer("mixgen", grid=2, **options)
