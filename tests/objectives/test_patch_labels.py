"""Patch labels compared with integer arithmetic on pixels, especially at patch borders."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.objectives.patch_labels import patch_labels


def reference(x: int, y: int, w: int, h: int, side: tuple[int, int], grid: int) -> np.ndarray:
    """docs/method.md §2 in exact arithmetic: a patch is 1 iff the open box overlaps its open square."""
    width, height = side
    labels = np.zeros((grid, grid), bool)
    for row in range(grid):
        for col in range(grid):
            top, bottom = Fraction(row * height, grid), Fraction((row + 1) * height, grid)
            left, right = Fraction(col * width, grid), Fraction((col + 1) * width, grid)
            labels[row, col] = y < bottom and y + h > top and x < right and x + w > left
    return labels.reshape(-1)


def fractions(box, side):
    x, y, w, h = box
    width, height = side
    return np.array([x / width, y / height, (x + w) / width, (y + h) / height], np.float32)


@pytest.mark.parametrize("grid", [1, 3, 7, 14, 16, 37])
def test_every_pixel_box_of_random_images(grid):
    rng = np.random.default_rng(grid)
    boxes, expected = [], []
    for _ in range(60):
        side = tuple(rng.integers(grid, 700, 2))
        x, y = (int(rng.integers(0, s)) for s in side)
        w, h = int(rng.integers(1, side[0] - x + 1)), int(rng.integers(1, side[1] - y + 1))
        boxes.append(fractions((x, y, w, h), side))
        expected.append(reference(x, y, w, h, side, grid))
    got = jax.jit(patch_labels, static_argnums=1)(jnp.array(boxes), grid)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("grid", [3, 7, 12, 14, 24, 37])
@pytest.mark.parametrize("patch", [1, 7, 16, 33])
def test_boxes_on_patch_borders_do_not_spill(grid, patch):
    # All boxes from border a to border b: exactly b - a columns, whatever a/g rounds to.
    side = (grid * patch, grid * patch)
    a, b = np.triu_indices(grid + 1, k=1)
    boxes = np.stack(
        [
            fractions((i * patch, 0, (j - i) * patch, side[1]), side)
            for i, j in zip(a, b, strict=True)
        ]
    )
    labels = np.asarray(patch_labels(jnp.array(boxes), grid)).reshape(-1, grid, grid)
    np.testing.assert_array_equal(labels.any(1).sum(-1), b - a)
    np.testing.assert_array_equal(labels.any(1).argmax(-1), a)
    # Corners found by a sum, as a pipeline does: x0 + w with both rounded.
    summed = boxes.copy()
    summed[:, 2] = boxes[:, 0] + (boxes[:, 2] - boxes[:, 0])
    np.testing.assert_array_equal(patch_labels(jnp.array(summed), grid), labels.reshape(len(a), -1))


def test_one_pixel_over_the_border_counts():
    # 512 px, patches of 16: one pixel beyond a border takes the next patch.
    labels = patch_labels(jnp.array(fractions((16, 16, 17, 16), (512, 512))), 32).reshape(32, 32)
    assert np.argwhere(labels).tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize(
    ("box", "patch"),
    [
        ((0.5, 0.5, 0.5, 0.5), (2, 2)),  # empty, at a border
        ((0.3, 0.6, 0.3, 0.6), (2, 1)),  # empty, inside
        ((1.0, 1.0, 1.0, 1.0), (3, 3)),  # at the far corner
        ((1.2, -0.5, 1.4, -0.1), (0, 3)),  # outside: the nearest patch
        ((-0.4, 0.3, 0.1, 0.4), (1, 0)),  # over the edge: clamped
    ],
)
def test_at_least_one_patch_and_clamped(box, patch):
    labels = patch_labels(jnp.array(box), 4).reshape(4, 4)
    assert np.argwhere(labels).tolist() == [list(patch)]


def test_leading_axes_and_order():
    boxes = jnp.array([[[0, 0, 1, 0.5], [0.5, 0, 1, 1]]], jnp.float32)
    labels = patch_labels(boxes, 2)
    assert labels.shape == (1, 2, 4)
    assert labels.dtype == bool
    # Row-major: x is the column.
    np.testing.assert_array_equal(labels[0], [[1, 1, 0, 0], [0, 1, 0, 1]])


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        patch_labels(jnp.zeros((5, 3)), 4)
