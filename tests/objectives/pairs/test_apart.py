"""Pairs that are left out of the loss: against a float64 loop, for every method and on 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.mixing.partners import Partners
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.pairs.targets import Hard
from timix_jax.parallel.mesh import make_mesh

N, D = 13, 5
PARTNER = np.array([3, 1, 0, 8, 4, 12, 2, 7, 5, 9, 6, 11, 10])  # 1, 4, 7, 9 and 11 stay clean


def arguments():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, N, D))
    return image, text, np.float64(0.4), np.float64(-0.5)


def left_out():
    """Return bool (N, N): i and j share content if one is the other's partner."""
    apart = np.zeros((N, N), bool)
    for i in range(N):
        for j in range(N):
            apart[i, j] = i != j and (PARTNER[i] == j or PARTNER[j] == i)
    return apart


def looped(kind, image, text, temperature, bias):
    """Return the loss over the pairs that are compared, each image with its own caption only."""
    s, compared = image @ text.T / temperature, ~left_out()
    total = 0.0
    for k in range(N):
        if kind == "softmax":
            row, column = s[k][compared[k]], s[:, k][compared[:, k]]
            total += (np.log(np.exp(row).sum()) + np.log(np.exp(column).sum())) / 2 - s[k, k]
        else:
            total += sum(np.log1p(np.exp(s[k, j] + bias)) for j in range(N) if compared[k, j])
            total -= s[k, k] + bias
    return total / N


def loss(kind, reduction, image, text, temperature, bias, partner=PARTNER):
    shares = Shares(
        jnp.ones(N),
        jnp.asarray(partner),
        Partners("derangement"),
        jnp.zeros(N),
        jnp.asarray(partner),
    )
    s = Similarities(image, text, temperature, bias)
    return PairLoss(KINDS[kind], reduction).mixed(s, Hard(), shares)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("method", "shape", "chunk"), [("ring", (8, 1, 1), 1), ("gather", (2, 4, 1), 3)]
)
def test_left_out_of_value_and_gradient(x64, kind, method, shape, chunk):
    mesh = make_mesh(jax.devices(), **dict(zip(("data", "fsdp", "tensor"), shape, strict=True)))
    (dense, want), (tiled, got) = (
        jax.jit(jax.value_and_grad(lambda *a, r=r: loss(kind, r, *a), argnums=(0, 1, 2, 3)))(
            *arguments()
        )
        for r in (PairReduction(), PairReduction(method, chunk, mesh))
    )
    assert dense == pytest.approx(looped(kind, *arguments()), rel=1e-12)
    assert tiled == pytest.approx(float(dense), rel=1e-12)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "reduction", [PairReduction(), PairReduction("ring", 4)], ids=["dense", "ring"]
)
def test_a_left_out_pair_has_no_gradient(x64, kind, reduction):
    """Along the direction in which only the similarity of one pair changes, the loss is constant."""
    image, text, temperature, bias = arguments()
    text = np.eye(N)  # so that image[i, j] is the similarity of the pair (i, j)
    image = np.random.default_rng(1).normal(size=(N, N))
    gradient = jax.grad(lambda x: loss(kind, reduction, x, text, temperature, bias))(image)
    np.testing.assert_array_equal(np.asarray(gradient) == 0, left_out())


def test_clean_rows_have_the_plain_loss(x64):
    for kind in KINDS:
        for reduction in (PairReduction(), PairReduction("ring", 4)):
            plain, _ = PairLoss(KINDS[kind], reduction).plain(Similarities(*arguments()))
            clean = loss(kind, reduction, *arguments(), partner=np.arange(N))
            assert clean == pytest.approx(float(plain), rel=1e-12)
