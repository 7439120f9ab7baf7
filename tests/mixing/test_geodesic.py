"""Geodesic mixup: points on the sphere, and the loss against a float64 loop and through a tiny model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_runs import BATCH, MODEL, assert_trees_close, embeddings, mixed, run
from tiny_model import make_batch, make_params

from timix_jax.errors import UserError
from timix_jax.mixing import Sample, build_mixer, with_captions
from timix_jax.mixing.geodesic import slerp
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated

N, D = 13, 5


def units(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=(*shape, D))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slerp_by_hand(a, b, lam):
    angle = np.arccos(np.sum(a * b, axis=-1, keepdims=True))
    return (np.sin(lam * angle) * a + np.sin((1 - lam) * angle) * b) / np.sin(angle)


def test_slerp():
    half = slerp(jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]]), jnp.asarray([0.5]))
    np.testing.assert_allclose(half, [[0.707107, 0.707107]], atol=1e-6)
    a, b = (jnp.asarray(x) for x in units(2, N))
    for lam, want in ((1.0, a), (0.0, b)):
        np.testing.assert_allclose(slerp(a, b, jnp.full(N, lam)), want, atol=1e-6)
    for lam in (0.2, 0.7):
        point = slerp(a, b, jnp.full(N, lam))
        np.testing.assert_allclose(
            point, slerp_by_hand(np.float64(a), np.float64(b), lam), atol=1e-5
        )
        np.testing.assert_allclose(jnp.linalg.norm(point, axis=1), np.ones(N), rtol=1e-5)
        # λ divides the angle.
        whole, part = (np.arccos(np.sum(np.float64(x) * np.float64(b), axis=1)) for x in (a, point))
        np.testing.assert_allclose(part, lam * whole, atol=2e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_collapsed_and_opposite_pairs_are_finite(dtype, sign):
    """Rounded, a·b may lie beyond ±1."""
    a = jnp.asarray(units(64), dtype)
    a = a * jnp.where(jnp.arange(64) % 2, 1, 1.001).astype(dtype)[:, None]
    value, grads = jax.value_and_grad(
        lambda a, b: jnp.sum(slerp(a, b, jnp.full(64, 0.3)) * jnp.arange(D)), argnums=(0, 1)
    )(a, sign * a)
    for leaf in (value, *grads):
        assert jnp.isfinite(leaf).all()
    if sign > 0 and dtype == jnp.float32:
        np.testing.assert_allclose(slerp(a, a, jnp.full(64, 0.3)), a, rtol=1e-5)


def looped(image, text, negatives, temperature):
    """Return the loss of each row's own candidates, one after the other."""
    total = 0.0
    for k in range(N):
        own = image[k] @ text[k] / temperature
        for side in (image, text):
            others = [side[k] @ negatives[j] / temperature for j in range(N) if j != k]
            total += np.log(np.exp(own) + np.exp(others).sum()) - own
    return total / (2 * N)


@pytest.mark.parametrize(
    ("method", "shape", "chunk"),
    [("ring", (8, 1, 1), 1), ("gather", (2, 4, 1), 3), ("ring", None, 4)],
)
def test_loss_and_gradient_of_each_method(x64, method, shape, chunk):
    image, text = units(2, N)
    temperature = np.float64(0.2)

    def loss(image, text, temperature, reduction):
        s = Similarities(image, text, temperature)
        return PairLoss(reduction=reduction).against(s, slerp(image, text, jnp.full(N, 0.4)))

    mesh = shape and make_mesh(**dict(zip(("data", "fsdp", "tensor"), shape, strict=True)))
    (dense, want), (tiled, got) = (
        jax.jit(jax.value_and_grad(lambda *a, r=r: loss(*a, r), argnums=(0, 1, 2)))(
            image, text, temperature
        )
        for r in (PairReduction(), PairReduction(method, chunk, mesh))
    )
    by_hand = looped(image, text, slerp_by_hand(image, text, 0.4), temperature)
    assert dense == pytest.approx(by_hand, rel=1e-10)
    assert tiled == pytest.approx(by_hand, rel=1e-10)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_clean_negatives_give_infonce_of_half_the_candidates(x64):
    """With captions as negatives the image's half is the plain loss."""
    image, text = units(2, N)
    got = PairLoss().against(Similarities(image, text, np.float64(0.2)), jnp.asarray(text))
    s, t = image @ text.T / 0.2, text @ text.T / 0.2
    np.fill_diagonal(t, np.diagonal(s))
    want = np.mean([np.log(np.exp(x).sum(axis=1)) - np.diagonal(s) for x in (s, t)])
    assert float(got) == pytest.approx(want, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_through_the_model(fraction):
    params = make_params(MODEL)
    batch = {name: make_batch(BATCH)[name] for name in ("image", "tokens")}
    options = {"alpha": 2.0, "temperature": 0.3, "fraction": fraction}
    value, log, grads, (how, _) = run(mixed("geodesic", **options), params, batch, 1)
    rows = slice(None, None, 1 if fraction == 1 else 2)
    lam = how.lam[0]
    assert 0.05 < lam < 0.95
    assert log["lambda"] == pytest.approx(float(lam), rel=1e-6)
    assert log["mixed_images"] == log["mixed_patches"] == 0

    @jax.jit
    @jax.value_and_grad
    def by_hand(params):
        image, text, _ = embeddings(params, batch["image"][rows], batch["tokens"][rows])
        angle = jnp.arccos(jnp.sum(image * text, axis=1, keepdims=True))
        point = jnp.sin(lam * angle) * image + jnp.sin((1 - lam) * angle) * text
        point /= jnp.sin(angle)
        own, eye = jnp.sum(image * text, axis=1), jnp.eye(len(image), dtype=bool)
        logits = (jnp.where(eye, own[:, None], side @ point.T) / 0.3 for side in (image, text))
        return -sum(jnp.mean(jnp.diagonal(jax.nn.log_softmax(x, axis=1))) for x in logits) / 2

    want, want_grads = by_hand(params)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    if fraction == 1:
        mesh = make_mesh()
        ring = mixed(
            "geodesic", pairs=PairLoss(reduction=PairReduction("ring", 3, mesh)), **options
        )
        split = jax.device_put(batch, batch_sharding(mesh))
        got, _, grads, _ = run(ring, jax.device_put(params, replicated(mesh)), split, 1)
        assert got == pytest.approx(float(want), rel=1e-5)
        assert_trees_close(grads, want_grads)


def test_one_share_per_batch():
    mixer = build_mixer("geodesic", grid=2)
    keys = jax.random.split(jax.random.key(0), 300)
    how = jax.vmap(lambda key: mixer(key, Sample(jnp.zeros((5, 4, 1)))))(keys)
    assert (how.lam == how.lam[:, :1]).all()
    assert abs(float(how.lam[:, 0].var()) - 0.125) < 0.02  # Beta(½, ½)


def test_refusals():
    for options, message in (({"alpha": 0.0}, "alpha=0"), ({"temperature": 0.0}, "temperature=0")):
        with pytest.raises(UserError, match=message):
            build_mixer("geodesic", grid=2, **options)
    for options, message in (
        ({"placement": "replace"}, r"mix\.placement='replace': .* use 'extra'"),
        ({"target": "pred"}, "one positive pair"),
        ({"pairs": PairLoss(KINDS["sigmoid"])}, r"contrastive\.loss='sigmoid'"),
    ):
        with pytest.raises(UserError, match=message):
            mixed("geodesic", **options)
    with pytest.raises(UserError, match="needs a mixer of images"):
        with_captions(build_mixer("geodesic", grid=2), "joined")
