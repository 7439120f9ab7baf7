"""Regions cut out and shrunk to a patch: the mean of each area, and the stem's patch of each crop alone."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import GRID, PATCH, make_params, tiny_model

from timix_jax.objectives.views.region_patches import crop_regions, embed_regions

crop = jax.jit(crop_regions, static_argnums=2)


def images(count, height, width):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def area_means(image, box, side):
    """Return the crop by the integral of the image, in float64."""
    height, width = image.shape[:2]
    integral = np.zeros((height + 1, width + 1, 3))
    integral[1:, 1:] = np.cumsum(np.cumsum(image / 127.5 - 1, axis=0), axis=1)
    x0, y0, x1, y1 = np.float64(box)
    along = lambda table, at, axis: np.apply_along_axis(
        lambda line: np.interp(at, np.arange(len(line)), line), axis, table
    )
    total = along(integral, np.linspace(y0, y1, side + 1) * height, 0)
    total = along(total, np.linspace(x0, x1, side + 1) * width, 1)
    area = (y1 - y0) * height * (x1 - x0) * width / side**2
    return np.diff(np.diff(total, axis=0), axis=1) / area


@pytest.mark.parametrize(("side", "height", "width"), [(4, 16, 16), (3, 20, 13)])
def test_a_pixel_is_the_mean_of_its_area(side, height, width):
    rng = np.random.default_rng(1)
    pictures = images(2, height, width)
    corner, size = rng.uniform(0, 0.5, (2, 3, 2)), rng.uniform(0.05, 0.5, (2, 3, 2))
    boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    boxes[0, 0] = 0, 0, 1, 1
    got = np.asarray(crop(pictures, boxes, side))
    assert got.shape == (2, 3, side, side, 3)
    for p, r in np.ndindex(2, 3):
        want = area_means(pictures[p], boxes[p, r], side)
        np.testing.assert_allclose(got[p, r], want, atol=2e-5)


def test_whole_pixels_are_shrunk_as_opencv_does():
    picture = images(1, 32, 32)
    boxes = np.array([[[4, 8, 20, 28]]], np.float32) / 32
    cut = cv2.resize(
        picture[0, 8:28, 4:20].astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA
    )
    np.testing.assert_allclose(crop(picture, boxes, 4)[0, 0], cut / 127.5 - 1, atol=1e-5)
    np.testing.assert_allclose(
        crop(picture, np.array([[[0.25, 0.5, 0.375, 0.625]]], np.float32), 4)[0, 0],
        picture[0, 16:20, 8:12] / 127.5 - 1,
        atol=1e-6,
    )
    assert not np.asarray(crop(picture, np.zeros((1, 1, 4), np.float32), 4)).any()  # finite


@pytest.mark.parametrize(("stem", "regions"), [("linear", 3), ("hierarchical", GRID**2 + 2)])
def test_each_region_is_one_patch_of_the_stem(stem, regions):
    """The second case needs two sheets per image."""
    model = tiny_model(stem)
    params = make_params(model)
    rng = np.random.default_rng(2)
    pictures = images(2, GRID * PATCH, GRID * PATCH)
    corner = rng.uniform(0, 0.6, (2, regions, 2))
    boxes = np.concatenate([corner, corner + 0.4], axis=-1).astype(np.float32)
    got = jax.jit(functools.partial(embed_regions, model))(params, pictures, boxes)
    assert got.shape == (2 * regions, 16)
    crops = np.asarray(crop(pictures, boxes, PATCH)).reshape(-1, PATCH, PATCH, 3)
    # Each crop alone, in the last place of a grey picture.
    alone = np.zeros((len(crops), GRID * PATCH, GRID * PATCH, 3), np.float32)
    alone[:, -PATCH:, -PATCH:] = crops
    want = jax.jit(model.embed_patches)(params, jnp.asarray(alone))[:, -1]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.std(np.asarray(got), axis=0).min() > 1e-2
