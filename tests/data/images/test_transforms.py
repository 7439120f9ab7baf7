"""Crops, flips and boxes, checked with masks that undergo the same operations."""

import numpy as np
import pytest
from PIL import Image

from timix_jax.data.images.augment import Augment, View, render_view, sample_view, view_boxes
from timix_jax.data.images.transforms import (
    WHOLE,
    Crop,
    clip_boxes,
    crop_and_resize,
    flip,
    flip_boxes,
    pixel_boxes_to_fractions,
    resize,
    sample_crop,
)
from timix_jax.errors import UserError


def test_crops_stay_inside_and_keep_scale_and_ratio():
    rng = np.random.default_rng(0)
    shares, ratios = [], []
    for _ in range(2000):
        crop = sample_crop(rng, 480, 640, scale=(0.2, 1.0))
        assert 0 <= crop.x0 < crop.x1 <= 1
        assert 0 <= crop.y0 < crop.y1 <= 1
        shares.append((crop.x1 - crop.x0) * (crop.y1 - crop.y0))
        ratios.append((crop.x1 - crop.x0) * 640 / ((crop.y1 - crop.y0) * 480))
    assert min(shares) > 0.195
    assert 0.2 < min(shares) + 0.01 < 0.25
    assert 0.9 < max(shares) <= 1
    assert 0.745 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.34
    # Log-uniform: tall windows are as frequent as wide ones, if both fit.
    small = [sample_crop(rng, 600, 600, scale=(0.1, 0.3)) for _ in range(2000)]
    tall = np.mean([c.x1 - c.x0 < c.y1 - c.y0 for c in small])
    assert 0.45 < tall < 0.55


def test_crop_positions_are_uniform():
    rng = np.random.default_rng(1)
    crops = [sample_crop(rng, 100, 100, scale=(0.25, 0.25), ratio=(1, 1)) for _ in range(4000)]
    lefts = np.array([round(c.x0 * 100) for c in crops])
    assert (lefts.min(), lefts.max()) == (0, 50)
    assert abs(lefts.mean() - 25) < 1


def test_strip_falls_back_to_the_largest_centred_window():
    crop = sample_crop(np.random.default_rng(0), 30, 300, scale=(0.9, 1.0))
    assert crop == Crop(130 / 300, 0.0, 170 / 300, 1.0)


def test_same_generator_gives_the_same_crop():
    draws = [sample_crop(np.random.default_rng(5), 90, 70, scale=(0.3, 1.0)) for _ in range(2)]
    assert draws[0] == draws[1]


def test_resize_keeps_a_gradient_and_averages_when_shrinking():
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    up = resize(ramp, 128, 256).astype(int)
    assert np.abs(np.diff(up[40, 8:-8, 0]) - 1).max() <= 1
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    means = noise.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(resize(noise, 32, 32) - means).max() <= 0.51


def _photograph(height: int, width: int) -> np.ndarray:
    """Return noise with the 1/f spectrum of photographs."""
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.fftfreq(width)[None, :, None]
    noise = np.random.default_rng(5).normal(size=(height, width, 3))
    spectrum = np.fft.fft2(noise, axes=(0, 1)) / np.maximum(np.hypot(rows, columns), 1 / width)
    image = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return (128 + 40 * image / image.std()).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "shape",
    [
        (128, 128),
        (144, 100),
        (70, 70),
        (64, 127),
        (300, 300),
        (60, 128),
        (40, 200),
        (200, 66),
        (33, 40),
    ],
    ids=lambda shape: f"{shape[0]}x{shape[1]}",
)
def test_resize_is_close_to_pillows_antialiased_bicubic(shape):
    image = _photograph(*shape)
    expected = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))
    error = np.square(resize(image, 64, 64) - expected.astype(float)).mean()
    assert 10 * np.log10(255**2 / error) > 37.5


@pytest.mark.parametrize("shape", [(400, 500), (250, 490), (30, 1000), (256, 512), (200, 700)])
def test_resize_turns_stripes_that_are_too_fine_into_grey(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[:, ::2] = 255
    result = resize(image, 256, 256)
    assert abs(result.mean() - 127.5) < 2
    assert result.std() < 30  # of 127.5


def test_resize_reads_nothing_outside_the_crop():
    image = _photograph(90, 90)
    other = image.copy()
    other[:10], other[:, 80:] = 255, 0
    np.testing.assert_array_equal(resize(image[10:, :80], 64, 64), resize(other[10:, :80], 64, 64))


@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_follow_crop_and_flip_exactly(flipped):
    """Draw a box as a mask and crop it at twice the size: the mask's extent is the moved box."""
    rng = np.random.default_rng(2)
    checked = 0
    for _ in range(100):
        x, y = rng.integers(0, 50, 2).tolist()
        w, h = rng.integers(4, 30, 2).tolist()
        mask = np.zeros((60, 80, 3), np.uint8)
        mask[y : min(y + h, 60), x : x + w] = 255
        # A window of 32 × 32 pixels at 64 × 64, where nearest neighbours are exact.
        left, top = int(rng.integers(0, 49)), int(rng.integers(0, 29))
        crop = Crop(left / 80, top / 60, (left + 32) / 80, (top + 32) / 60)
        boxes = pixel_boxes_to_fractions(np.array([[x, y, w, h]]), 60, 80)
        moved, kept = view_boxes(boxes, View(crop, flipped), 60, 80, 64)
        cut = mask[top : top + 32, left : left + 32].repeat(2, 0).repeat(2, 1)
        cut = flip(cut) if flipped else cut
        inside = (cut[..., 0] > 0).sum() / 4
        assert kept[0] == (inside > 0.5 * w * (min(y + h, 60) - y))
        if inside:
            rows, columns = np.nonzero(cut[..., 0])
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(moved[0] * 64, extent, atol=1e-3)
            checked += 1
    assert checked > 30


def test_boxes_follow_the_rendered_view():
    """Check the same through sampling and bicubic resizing, to one pixel."""
    rng = np.random.default_rng(3)
    augment = Augment(crop_min=0.4)
    for _ in range(50):
        pixels = np.zeros((96, 128, 3), np.uint8)
        pixels[30:70, 40:90] = 255
        view = sample_view(rng, augment, 96, 128, ["a box"])
        image = render_view(pixels, view, 64)
        assert image.shape == (64, 64, 3)
        whole = pixel_boxes_to_fractions(np.array([[40, 30, 50, 40]]), 96, 128)
        boxes, kept = view_boxes(whole, view, 96, 128, 64)
        if kept[0]:
            rows, columns = np.nonzero(image[..., 0] > 127)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(boxes[0] * 64, extent, atol=1.01)


def test_whole_image_without_augmentation():
    augment = Augment(flip=False)
    view = sample_view(np.random.default_rng(0), augment, 40, 60, ["x"])
    assert view == View()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    np.testing.assert_array_equal(render_view(pixels, view, 32), resize(pixels, 32, 32))


def test_crop_and_resize_returns_the_window_it_cut():
    pixels = np.arange(10 * 10 * 3, dtype=np.uint8).reshape(10, 10, 3)
    image, cut = crop_and_resize(pixels, Crop(0.12, 0.27, 0.58, 0.8), 5, 5)
    assert cut == Crop(0.1, 0.3, 0.6, 0.8)
    np.testing.assert_array_equal(image, pixels[3:8, 1:6])
    assert crop_and_resize(pixels, WHOLE, 10, 10)[0].tolist() == pixels.tolist()


def test_box_needs_more_than_half_of_its_area():
    boxes = np.array([[-0.4, 0, 0.4, 1], [-0.3, 0, 0.4, 1], [1.1, 0, 1.2, 1]], np.float32)
    clipped, kept = clip_boxes(boxes)
    assert kept.tolist() == [False, True, False]
    np.testing.assert_allclose(clipped[1], [0, 0, 0.4, 1])


def test_flipping_boxes_twice_is_the_identity():
    boxes = np.array([[0.1, 0.2, 0.4, 0.9]], np.float32)
    np.testing.assert_allclose(flip_boxes(boxes), [[0.6, 0.2, 0.9, 0.9]], atol=1e-6)
    np.testing.assert_allclose(flip_boxes(flip_boxes(boxes)), boxes, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_min": 0},
        {"crop_min": 1.2},
        {"crop_ratio": (2, 1)},
        {"randaugment": -1},
        {"magnitude": 11},
        {"operations": ("rotat",)},
        {"operations": ()},
        {"probability": 2},
    ],
)
def test_augment_rejects_invalid_fields(fields):
    with pytest.raises(UserError):
        Augment(**fields)
