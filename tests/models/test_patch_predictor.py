"""The text-aware patch predictor compared with values of the released code, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import FIXTURES

from timix_jax.mixing.scores import standardise
from timix_jax.models.patch_predictor import PatchPredictor
from timix_jax.objectives.patch_text import alignment_sum

GOLDEN = np.load(FIXTURES / "timix_golden.npz")


def golden_params() -> dict:
    """Convert Torch's layouts (out, in) to ours (in, out)."""
    dense = lambda name: {
        "kernel": GOLDEN[f"tpp_w_{name}.weight"].T,
        "bias": GOLDEN[f"tpp_w_{name}.bias"],
    }
    return {
        "norm": {
            "scale": GOLDEN["tpp_w_in_conv.0.weight"],
            "bias": GOLDEN["tpp_w_in_conv.0.bias"],
        },
        "in": dense("in_conv.1"),
        "hidden1": dense("out_conv.0"),
        "hidden2": dense("out_conv.2"),
        "out": dense("softmax_output.0"),
    }


@pytest.mark.usefixtures("x64")
def test_golden_logp_score_and_loss():
    h, c = GOLDEN["tpp_x"], GOLDEN["tpp_t"]
    logp = PatchPredictor(dtype=jnp.float64).apply({"params": golden_params()}, h, c)
    np.testing.assert_allclose(logp, GOLDEN["tpp_out"], rtol=1e-9)
    # The golden score has no eps, which moves ours by eps/deviation at most.
    np.testing.assert_allclose(standardise(logp[..., 1], eps=0.0), GOLDEN["tpp_z"], rtol=1e-9)
    total, count = alignment_sum(logp, GOLDEN["tpp_y"], jnp.ones(len(h), bool))
    np.testing.assert_allclose(total / count, GOLDEN["tpp_loss"], rtol=1e-9)


def test_a_constant_row_is_finite_and_stays_constant():
    scores = np.asarray(standardise(jnp.full((2, 9), -0.3)))
    assert np.isfinite(scores).all()
    assert np.ptp(scores) == 0
    assert np.abs(scores).max() < 0.1  # rounding of the mean over eps


def test_invalid_regions_count_nothing():
    logp = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 4, 2)))
    labels = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    total, count = alignment_sum(logp, labels, np.array([True, False, True]))
    expected = -sum(logp[i, n, labels[i, n]] for i in (0, 2) for n in range(4))
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert count == 8
