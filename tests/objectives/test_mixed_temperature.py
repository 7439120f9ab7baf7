"""The loss of mixed images at a temperature of its own."""

import method_reference as reference
import numpy as np
import pytest
from objective_runs import BATCH, MODEL, clean_logits, mixed, pixels, run
from tiny_model import PATCH, make_batch, make_params

from timix_jax.errors import UserError


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(BATCH).items() if name != "regions"}


def test_a_temperature_of_its_own(params, batch):
    """L_mix is that of embeddings at the given τ, and does not train the model's."""
    objective = mixed(score="random", temperature=0.5)
    value, _, grads, (how, scores) = run(objective, params, batch, 1)
    images = reference.mix_images(
        pixels(batch["image"]), scores, int(how.window), np.asarray(how.partner), PATCH
    )
    tau = float(MODEL.temperature(params))
    assert abs(tau - 0.5) > 0.1
    S = clean_logits(params, {**batch, "image": images}) * tau / 0.5
    i2t, t2i = reference.hard_targets(np.float64(how.lam), np.asarray(how.partner))
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    assert float(grads["log_temperature"]) == 0
    assert np.abs(grads["image"]["projection"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": 0.1, "placement": "replace"}]
)
def test_temperatures_that_cannot_work(options):
    with pytest.raises(UserError, match=r"mix\.temperature=.*mix\.placement='extra'"):
        mixed(**options)
