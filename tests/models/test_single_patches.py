"""Single patches against images of which patch dropout leaves one patch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import GRID, make_batch, make_params, tiny_model

N = GRID**2


@pytest.mark.parametrize("pool", ["gap", "cls"])
@pytest.mark.parametrize("scan", [True, False])
def test_equal_an_image_with_one_patch_left(pool, scan):
    model = tiny_model(pool=pool, scan=scan)
    params, images = make_params(model), make_batch(2)["image"]

    @jax.jit
    def both(params, images):
        patches = model.embed_patches(params, images)
        repeated = jnp.repeat(patches, N, axis=0)
        kept = jnp.tile(jnp.arange(N, dtype=jnp.int32), 2)[:, None]
        one_left = model.encode_image(params, repeated, kept=kept).embedding
        return model.encode_single_patches(params, patches), one_left.reshape(2, N, -1)

    single, one_left = both(params, images)
    np.testing.assert_allclose(single, one_left, atol=1e-5)
    assert np.std(single, axis=1).max() > 0.01


def test_a_patch_does_not_see_the_others():
    model = tiny_model(pool="gap")
    params, images = make_params(model), make_batch(1)["image"]
    patches = model.embed_patches(params, images)
    single = model.encode_single_patches(params, patches)
    changed = model.encode_single_patches(params, patches.at[:, 1:].set(7.0))
    np.testing.assert_allclose(changed[:, 0], single[:, 0], atol=1e-6)
    assert np.abs(changed[:, 1:] - single[:, 1:]).max() > 0.01
