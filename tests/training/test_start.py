"""What a run starts from."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import tiny_model

from timix_jax.errors import UserError
from timix_jax.training.start import _check_temperature, _with_params
from timix_jax.training.state import TrainState


def test_the_average_starts_from_the_loaded_weights():
    """A fresh teacher would say nothing to the student for hundreds of steps."""
    fresh, loaded = ({"image": jnp.full(3, value)} for value in (0.0, 1.0))
    state = TrainState(jnp.int32(0), fresh, fresh, None)
    started = _with_params(state, loaded)
    for tree in (started.params, started.ema_params):
        np.testing.assert_array_equal(tree["image"], 1)
    # Each step donates both.
    assert started.ema_params["image"] is not started.params["image"]
    without = _with_params(TrainState(jnp.int32(0), fresh, None, None), loaded)
    assert without.ema_params is None


@pytest.mark.parametrize(("temperature", "clamped"), [(0.01, None), (0.005, 0.01), (0.9, 0.5)])
def test_a_temperature_that_the_first_step_would_change_is_refused(temperature, clamped):
    model = tiny_model(temperature_range=(0.01, 0.5))
    params = {"log_temperature": jnp.log(jnp.float32(temperature))}
    if clamped is None:
        _check_temperature(model, params)
        return
    message = rf"temperature {temperature}, which config\.model\.temperature_range .* to {clamped}: widen it"
    with pytest.raises(UserError, match=message):
        _check_temperature(model, params)
