"""Mixed images, targets and losses match the released code's float64 values to a relative 1e-9."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import FIXTURES
from target_matrices import hard, pred_shared

from timix_jax.mixing.base import area_lambda
from timix_jax.mixing.partners import flip
from timix_jax.mixing.scores import standardise
from timix_jax.mixing.timix import TiMix
from timix_jax.mixing.windows import patchify, unpatchify
from timix_jax.objectives.pairs.soft_cross_entropy import soft_contrastive

GOLDEN = np.load(FIXTURES / "timix_golden.npz")
CASES = sorted({key.split("_")[0] for key in GOLDEN if key[0] == "c" and key[1].isdigit()})

pytestmark = pytest.mark.usefixtures("x64")


def close(got, expected):
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def case(name):
    values = {key[len(name) + 1 :]: GOLDEN[key] for key in GOLDEN if key.startswith(name + "_")}
    grid, r, batch = int(values["side"]), int(values["r"]), len(values["x"])
    partner = flip(batch)
    return values, grid, r, partner, area_lambda(r, grid, partner, jnp.dtype("float64"))


def test_there_are_cases():
    assert CASES == ["c0", "c1", "c2"]


@pytest.mark.parametrize("name", CASES)
def test_mixed_images(name):
    values, grid, r, partner, lam = case(name)
    patch = int(values["patch"])
    patches = patchify(jnp.asarray(values["x"]).transpose(0, 2, 3, 1), patch)
    mixer = TiMix(grid, low=1 / grid, high=1.0)
    mixed = jax.jit(mixer.mix)(patches, jnp.asarray(values["score"]), partner, r)
    assert np.abs(values["mixed"] - values["x"]).max() > 0.1  # something was pasted
    close(unpatchify(mixed.image, patch).transpose(0, 3, 1, 2), values["mixed"])
    close(mixed.lam, np.asarray(lam))


@pytest.mark.parametrize("name", CASES)
def test_predicted_target_and_its_loss(name):
    values, _, _, partner, lam = case(name)
    # U = softmax of any logits that differ from log U by a constant per row.
    logits = jnp.log(jnp.asarray(values["U"])) + jnp.arange(len(lam))[:, None]
    i2t, t2i = pred_shared(lam, partner, logits)
    close(i2t, values["soft"])
    close(t2i, values["soft"])
    close(soft_contrastive(jnp.asarray(values["logits"]), i2t, t2i), values["loss_soft"])


@pytest.mark.parametrize("name", CASES)
def test_hard_target_with_smoothing_and_its_loss(name):
    values, _, _, partner, lam = case(name)
    i2t, t2i = hard(lam, partner, label_smoothing=0.1)
    close(i2t, values["hard"])
    close(t2i, values["hard"].T)
    close(soft_contrastive(jnp.asarray(values["logits"]), i2t, t2i), values["loss_hard"])


def test_standardised_score():
    logp = jnp.asarray(GOLDEN["tpp_out"])
    close(standardise(logp[..., 1]), GOLDEN["tpp_z"])
