"""Tiled losses of plain and mixed batches compared with the dense form: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing.partners import ANY_PARTNERS, Partners
from timix_jax.objectives.pairs.kinds import KINDS, loss_kind
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.soft_cross_entropy import sigmoid_contrastive
from timix_jax.objectives.pairs.sweep import DENSE, PairReduction
from timix_jax.objectives.pairs.targets import build_target
from timix_jax.parallel.mesh import batch_sharding, make_mesh

N, D = 16, 8
# Target, rule, options. λ differs by row, so rows of captions do not add to 1 by themselves.
MIXED = {
    "hard": ("hard", "flip", {}),
    "pred": ("pred", "flip", {}),
    "pred_shared of a derangement": ("pred_shared", "derangement", {}),
    "blend of a derangement, smoothed": (
        "blend",
        "derangement",
        {"beta": 0.3, "label_smoothing": 0.2},
    ),
}


def inputs(dtype=jnp.float32, count=N):
    """Return images, mixed images, captions, a teacher's images and captions, τ and bias."""
    rng = np.random.default_rng(1)
    sides = rng.normal(size=(5, count, D))
    sides[2] += sides[0]
    sides /= np.linalg.norm(sides, axis=-1, keepdims=True)
    return *jnp.asarray(sides, dtype), jnp.float32(0.2), jnp.float32(-1.5)


def losses(kind, reduction, image, mixed, text, teacher_image, teacher_text, tau, bias):
    """Return the loss of every case, and the hits of the plain one."""
    pairs, count = PairLoss(KINDS[kind], reduction), len(image)
    clean = Similarities(image, text, tau, bias if kind == "sigmoid" else None)
    plain, hits = pairs.plain(clean)
    teacher = clean._replace(image=teacher_image, text=teacher_text)
    distilled, same_hits = pairs.distilled(clean, teacher, 0.3)
    found = {"plain": plain, "distilled": distilled}
    lam = jnp.linspace(0.3, 0.9, count)
    for name, (target, rule, options) in MIXED.items():
        partners = Partners(rule)
        partner = partners.draw(jax.random.key(0), count)
        shares = Shares(lam, partner, partners)
        s = clean._replace(image=mixed)
        found[name] = pairs.mixed(s, build_target(target, **options), shares, clean.constant())
    return found, (hits, same_hits)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(kind, reduction, arguments):
    def weighted(arguments):
        found, hits = losses(kind, reduction, *arguments)
        # Unequal weights, so that wrong gradients of two cases cannot cancel.
        weights = jnp.linspace(0.5, 2.0, len(found))
        return weights @ jnp.stack(list(found.values())), (found, hits)

    gradient, aux = jax.grad(weighted, has_aux=True)(arguments)
    return *aux, gradient


@pytest.mark.parametrize(
    ("kind", "method", "shape", "chunk"),
    [
        pytest.param("softmax", "ring", (2, 2, 2), 3, marks=pytest.mark.slow),
        ("sigmoid", "gather", (2, 4, 1), 5),
        pytest.param("sigmoid", "ring", (2, 2, 2), 3, marks=pytest.mark.slow),
        pytest.param("softmax", "gather", (2, 4, 1), 5, marks=pytest.mark.slow),
        pytest.param("softmax", "ring", (1, 1, 1), 6, marks=pytest.mark.slow),
        pytest.param("sigmoid", "ring", (1, 1, 1), 6, marks=pytest.mark.slow),
    ],
)
def test_float32(kind, method, shape, chunk):
    data, fsdp, tensor = shape
    mesh = make_mesh(jax.devices()[: data * fsdp * tensor], data=data, fsdp=fsdp, tensor=tensor)
    arguments = inputs()
    want, hits, gradients = values_and_gradients(kind, DENSE, arguments)
    arguments = *jax.device_put(arguments[:5], batch_sharding(mesh)), *arguments[5:]
    got, hits_too, gradients_too = values_and_gradients(
        kind, PairReduction(method, chunk, mesh), arguments
    )
    assert 0 < np.sum(hits[0]) < N
    np.testing.assert_array_equal(hits_too, hits)
    for name, value in want.items():
        assert got[name] == pytest.approx(float(value), rel=1e-6), name
    names = ("image", "mixed", "text", "teacher image", "teacher text", "τ", "bias")
    for name, a, b in zip(names, gradients_too, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max(), err_msg=name)
        constant = name.startswith("teacher") or (name == "bias" and kind == "softmax")
        assert np.any(b) != constant, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_bfloat16(kind):
    """The dense loss in float32 of the same rounded embeddings, within the rounding of what is bfloat16 here:
    values and weights of attention, and each case's gradient before they are summed (2⁻⁸ each).
    """
    arguments = inputs(jnp.bfloat16)
    exact = *(a.astype(jnp.float32) for a in arguments[:5]), *arguments[5:]
    want, _, gradients = values_and_gradients(kind, DENSE, exact)
    ring = PairReduction("ring", 1024, make_mesh(data=8))
    got, _, gradients_too = values_and_gradients(kind, ring, arguments)
    for name, value in want.items():
        assert got[name] == pytest.approx(float(value), rel=4e-3), name
    for a, b in zip(gradients_too[:3], gradients[:3], strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(a), b, atol=2e-2 * np.abs(b).max())
    for a, b in zip(gradients_too[5:], gradients[5:], strict=True):
        assert a == pytest.approx(float(b), rel=1e-2)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("method", ["dense", "gather", "ring"])
def test_every_product_is_of_the_highest_precision(kind, method):
    """Check the lowered forward and backward pass: CPUs hide a default of bfloat16 (TPU) or TF32 (GPU)."""
    mesh = make_mesh()
    reduction = DENSE if method == "dense" else PairReduction(method, 1, mesh)

    def loss(arguments):
        found, hits = losses(kind, reduction, *arguments)
        return sum(found.values()), hits

    arguments = inputs()
    arguments = *jax.device_put(arguments[:5], batch_sharding(mesh)), *arguments[5:]
    text = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(arguments).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 5
    for line in products:
        assert "precision = [HIGHEST, HIGHEST]" in line, line


def test_the_sigmoid_loss_in_loops():
    image, _, text, *_, tau, bias = inputs(count=5)
    y = np.random.default_rng(2).uniform(size=(5, 5))
    s = Similarities(image, text, tau, bias)
    total = 0.0
    for k in range(5):
        for j in range(5):
            logit = float(np.dot(image[k], text[j])) / 0.2 - 1.5
            match = 1 / (1 + np.exp(-logit))
            total -= y[k, j] * np.log(match) + (1 - y[k, j]) * np.log(1 - match)
    assert sigmoid_contrastive(s.matrix(), y) == pytest.approx(total / 5, rel=1e-5)
    plain, _ = PairLoss(KINDS["sigmoid"]).plain(s)
    assert plain == pytest.approx(float(sigmoid_contrastive(s.matrix(), np.eye(5))), rel=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_captions_that_no_image_shows_and_an_odd_batch(kind):
    """With λ = 0 in all rows, the dense target has rows of zeros."""
    image, mixed, text, *_, tau, bias = inputs(count=7)
    lam, partner = jnp.zeros(7), jnp.array([1, 1, 1, 4, 4, 4, 4])

    @functools.partial(jax.jit, static_argnums=0)
    def all_targets(reduction):
        s = Similarities(mixed, text, tau, bias)
        shares, pairs = Shares(lam, partner, ANY_PARTNERS), PairLoss(KINDS[kind], reduction)
        names = ("hard", "pred", "pred_shared")
        reference = s._replace(image=image)
        return jnp.stack([pairs.mixed(s, build_target(n), shares, reference) for n in names])

    dense, tiled = all_targets(DENSE), all_targets(PairReduction("ring", 3))
    np.testing.assert_allclose(tiled, dense, rtol=1e-5)


def test_bad_settings():
    image, _, text, *_, tau, _ = inputs()
    with pytest.raises(UserError, match="loss='hinge' is unknown; use one of softmax, sigmoid"):
        loss_kind("hinge")
    with pytest.raises(UserError, match="needs a model with a logit bias"):
        PairLoss(KINDS["sigmoid"]).plain(Similarities(image, text, tau))
    with pytest.raises(UserError, match=r"mix\.target needs the similarities of the unmixed"):
        PairLoss().mixed(Similarities(image, text, tau), build_target("pred"), Shares.own(N))
    with pytest.raises(UserError, match=r"mix\.target='soft' is unknown; use one of hard, pred"):
        build_target("soft")
