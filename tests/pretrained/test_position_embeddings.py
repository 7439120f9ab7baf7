"""Position embeddings fitted to another grid."""

import numpy as np
import pytest
from bicubic import resized

from timix_jax.errors import UserError
from timix_jax.pretrained.position_embeddings import fit_position_embeddings, interpolate_grid


def ramp(grid):
    """(1, g·g, 2): row and column of each patch's centre, as shares of the side."""
    centre = (np.arange(grid) + 0.5) / grid
    rows, columns = np.meshgrid(centre, centre, indexing="ij")
    return np.stack([rows, columns], axis=-1).reshape(1, grid * grid, 2).astype(np.float32)


def params_of(grid, tokens, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": {"pos_embed": rng.standard_normal((1, grid * grid, 3)), "kernel": np.ones(2)},
        "text": {"pos_embed": rng.standard_normal((1, tokens, 4))},
        "log_temperature": np.zeros(()),
    }


def test_the_same_grid_is_the_identity():
    values = np.random.default_rng(0).standard_normal((1, 25, 3)).astype(np.float32)
    np.testing.assert_allclose(interpolate_grid(values, 5), values, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(8, 16), (8, 12), (16, 8), (12, 18)])
def test_a_linear_ramp_stays_linear_in_the_interior(old, new):
    """Rows stay rows and centres stay centres: neither transposed nor shifted by half a patch."""
    got = np.asarray(interpolate_grid(ramp(old), new)).reshape(new, new, 2)
    want = ramp(new).reshape(new, new, 2)
    edge = int(np.ceil(2.5 * max(new / old, 1)))
    inside = slice(edge, new - edge)
    assert want[inside, inside].size
    np.testing.assert_allclose(got[inside, inside], want[inside, inside], atol=1e-5)
    assert np.abs(got).max() > 0.5


@pytest.mark.parametrize(("old", "new"), [(14, 16), (3, 5), (16, 7)])
def test_values_are_bicubic_and_antialiased(old, new):
    """As open_clip's; other projects interpolate bilinearly, or without antialiasing."""
    table = np.random.default_rng(0).standard_normal((1, old * old, 3)).astype(np.float32)
    np.testing.assert_allclose(interpolate_grid(table, new)[0], resized(table[0], new), atol=1e-5)


def test_constant_stays_constant():
    np.testing.assert_allclose(
        interpolate_grid(np.full((1, 16, 2), 3.0, np.float32), 7), 3.0, rtol=1e-5
    )


def test_only_what_differs_is_changed():
    saved = params_of(4, 6)
    same = fit_position_embeddings(saved, params_of(4, 6, seed=1))
    np.testing.assert_array_equal(same["image"]["pos_embed"], saved["image"]["pos_embed"])
    np.testing.assert_array_equal(same["text"]["pos_embed"], saved["text"]["pos_embed"])
    other = fit_position_embeddings(saved, params_of(6, 5))
    assert other["image"]["pos_embed"].shape == (1, 36, 3)
    np.testing.assert_array_equal(other["text"]["pos_embed"], saved["text"]["pos_embed"][:, :5])
    np.testing.assert_array_equal(other["image"]["kernel"], saved["image"]["kernel"])
    assert saved["image"]["pos_embed"].shape == (1, 16, 3)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(UserError, match="max_tokens=7"):
        fit_position_embeddings(params_of(4, 6), params_of(4, 7))
    with pytest.raises(UserError, match="not a square"):
        interpolate_grid(np.zeros((1, 17, 2)), 4)
