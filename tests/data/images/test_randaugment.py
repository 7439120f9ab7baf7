"""RandAugment: pixels against Pillow or closed form, boxes against moved masks."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from timix_jax.data.images.randaugment import (
    ALBEF_OPERATIONS,
    GEOMETRIC,
    Operation,
    apply_operations,
    move_boxes,
    sample_operations,
)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([40 + x * 2, 30 + y * 4, 90 + 50 * np.sin(x * y / 90)], -1)
    return pixels.astype(np.uint8)


PILLOW = {
    "autocontrast": lambda image, v: ImageOps.autocontrast(image),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "solarize": lambda image, v: ImageOps.solarize(image, int(v)),
}
VALUES = {"posterize": (4, 7, 8), "solarize": (0, 100, 256)}


@pytest.mark.parametrize("name", PILLOW)
def test_agrees_with_pillow(image, name):
    for value in VALUES.get(name, (0.3, 1.0, 1.7)):
        ours = apply_operations(image, [Operation(name, value)]).astype(int)
        theirs = np.asarray(PILLOW[name](Image.fromarray(image), value)).astype(int)
        assert np.abs(ours - theirs).max() <= 2, value
        assert np.abs(ours - theirs).mean() < 1.0, value


def test_equalize_flattens_each_channel(image):
    out = apply_operations(image, [Operation("equalize", 0)])
    for channel in range(2):
        levels = np.sort(out[..., channel].ravel()) / 255
        uniform = np.linspace(0, 1, levels.size)
        assert np.abs(levels - uniform).max() < 0.04
        assert (np.diff(out[0, :, 0].astype(int)) >= 0).all()


def test_flat_image_is_unchanged():
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(apply_operations(flat, [Operation("autocontrast", 0)]), flat)


def test_input_is_not_modified(image):
    before = image.copy()
    for name in (*ALBEF_OPERATIONS, "color", "contrast", "posterize", "solarize"):
        if name != "identity":
            operations = sample_operations(np.random.default_rng(0), 1, 9, (name,), 1.0)
            assert operations[0].name == name
            out = apply_operations(image, operations)
            assert out.shape == image.shape
            assert out.dtype == np.uint8
            assert not np.array_equal(out, before)
    np.testing.assert_array_equal(image, before)


def test_translation_by_whole_pixels_is_exact_and_fills_with_grey(image):
    out = apply_operations(
        image, [Operation("translate_x", 4 / 64), Operation("translate_y", -3 / 48)]
    )
    np.testing.assert_array_equal(out[:-3, 4:], image[3:, :-4])
    assert (out[:, :4] == 128).all()
    assert (out[-3:] == 128).all()


def test_quarter_turn_is_exact():
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    out = apply_operations(square, [Operation("rotate", 90.0)]).astype(int)
    assert np.abs(out - np.rot90(square)).max() <= 1


@pytest.mark.parametrize("names", [*[(n,) for n in sorted(GEOMETRIC)], ("rotate", "shear_x")])
@pytest.mark.parametrize("sign", [-1, 1])
def test_boxes_follow_the_mask(names, sign):
    mask = np.zeros((200, 240, 3), np.uint8)
    mask[70:130, 80:170] = 255
    values = {"rotate": 25.0, "translate_x": 0.1, "translate_y": 0.1}
    operations = [Operation(name, sign * values.get(name, 0.25)) for name in names]
    out = apply_operations(255 - mask, operations)[..., 0]
    seen = apply_operations(mask, operations)[..., 0]
    rows, columns = np.nonzero((seen > 128) & (out < 127))
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = np.array([[80 / 240, 70 / 200, 170 / 240, 130 / 200]], np.float32)
    moved = move_boxes(box, operations, 200, 240)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[0] * [240, 200, 240, 200], extent, atol=2.0)


def test_photometric_operations_do_not_move_boxes():
    box = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    np.testing.assert_allclose(move_boxes(box, [Operation("brightness", 1.5)], 9, 9), box)
    assert move_boxes(np.zeros((0, 4), np.float32), [Operation("rotate", 9.0)], 9, 9).shape == (
        0,
        4,
    )


def test_draws_cover_the_list_with_the_requested_probability():
    rng = np.random.default_rng(0)
    drawn = [sample_operations(rng, 2, 7) for _ in range(3000)]
    names = [operation.name for operations in drawn for operation in operations]
    assert set(names) == set(ALBEF_OPERATIONS) - {"identity"}
    # Nine of ten operations are not the identity, and half are applied: 2 · 3000 · 0.9 / 2.
    assert abs(len(names) - 2700) < 150
    signs = [o.value > 0 for operations in drawn for o in operations if o.name == "rotate"]
    assert 0.4 < np.mean(signs) < 0.6
    assert max(abs(o.value) for ops in drawn for o in ops if o.name == "rotate") == 21.0
