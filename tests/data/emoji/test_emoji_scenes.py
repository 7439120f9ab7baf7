"""Plans, rendering and captions of the emoji scenes."""

from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.data.emoji import backgrounds, captions, scenes
from timix_jax.errors import UserError
from timix_jax.evaluators.localisation import roc_auc
from timix_jax.objectives.patch_labels import patch_labels


def _plans(count, **options):
    return [
        scenes.plan_scene(np.random.default_rng(i), range(30), range(50), (0, 2), **options)
        for i in range(count)
    ]


def test_plans_name_some_of_two_to_five_drawings():
    plans = _plans(600)
    assert {len(p.concepts) for p in plans} == {2, 3, 4, 5}
    assert {v for p in plans for v in p.vendors} == {0, 2}
    doubled = cluttered = 0
    for plan in plans:
        assert len(plan.vendors) == len(plan.concepts)
        assert len(set(plan.named)) == len(plan.named)
        assert set(plan.named) <= set(plan.concepts)
        assert set(plan.named) <= set(range(30))
        assert set(plan.concepts) <= set(range(50))
        counts = sorted(Counter(plan.concepts).values())
        assert counts[-1] <= 2
        assert counts[:-1] == [1] * (len(counts) - 1)
        assert len(plan.named) == 1 if len(plan.concepts) == 2 else 2 <= len(plan.named) <= 3
        doubled += counts[-1] == 2
        unnamed = set(plan.concepts) - set(plan.named)
        cluttered += bool(unnamed)
        if not unnamed:
            assert counts[-1] == 2
    assert 0.2 < doubled / 600 < 0.45
    assert cluttered / 600 > 0.75


def test_plans_of_test_splits_name_at_least_two():
    plans = _plans(200, min_drawings=3)
    assert min(len(p.named) for p in plans) == 2
    assert min(len(p.concepts) for p in plans) == 3


@pytest.fixture
def black(monkeypatch):
    monkeypatch.setattr(
        scenes, "draw_background", lambda _, size: (np.zeros((size, size, 3), np.float32), "black")
    )


def _squares(count, height=40, width=40, white=()):
    """Return opaque rectangles, black except for those listed in `white`."""
    drawings = np.zeros((count, height, width, 4), np.uint8)
    drawings[..., 3] = 255
    drawings[list(white)] = 255
    return list(drawings)


def _visible(seed, look, count, height, width):
    """Yield each drawing's box and its visible pixels, from renderings with only that drawing white."""
    for index in range(count):
        drawings = _squares(count, height, width, [index])
        scene = scenes.render_scene(np.random.default_rng(seed), drawings, look)
        assert scene.image.shape == (look.canvas, look.canvas, 3)
        assert scene.boxes.shape == (count, 4)
        yield scene.boxes[index], scene.image[..., 0]


@pytest.mark.parametrize(("count", "rotation"), [(2, 0), (3, 30), (5, 30), (5, 180)])
def test_boxes_contain_the_visible_pixels(black, count, rotation):
    look = scenes.Look(canvas=96, rotation=rotation)
    errors = []
    for seed in range(20):
        for (x, y, w, h), image in _visible(seed, look, count, 40, 25 + seed):
            rows, columns = np.nonzero(image > 127)
            found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            errors.append(np.abs(found - [x, y, x + w, y + h]).max())
            assert image[y : y + h, x : x + w].sum() > 0.98 * image.sum()
    # Corners and slivers with a quarter of full alpha belong to the box but are less bright.
    assert np.mean(np.array(errors) <= 2) > 0.97
    assert max(errors) <= 8


def test_sizes_and_visibility(black):
    look = scenes.Look(canvas=100, min_size=0.3, max_size=0.3, rotation=0)
    areas = [
        image.sum() / 255 for seed in range(40) for _, image in _visible(seed, look, 3, 40, 40)
    ]
    assert max(areas) == pytest.approx(30**2, rel=0.05)
    # At least 70% visible; drawings are 6% smaller after each restart of the scene.
    assert min(areas) > 0.7 * (30 * 0.94**2) ** 2 * 0.95
    assert np.median(areas) > 0.9 * 30**2


@pytest.mark.parametrize(("on_canvas", "cut"), [(1.0, False), (0.5, True)])
def test_drawings_stick_out_as_far_as_allowed(black, on_canvas, cut):
    look = scenes.Look(canvas=100, min_size=0.3, max_size=0.3, rotation=0, on_canvas=on_canvas)
    shown = []
    for seed in range(60):
        ((box, image),) = _visible(seed, look, 1, 40, 40)
        x, y, w, h = box
        np.testing.assert_array_equal(np.argwhere(image).min(0), [y, x])
        np.testing.assert_array_equal(np.argwhere(image).max(0), [y + h - 1, x + w - 1])
        shown.append(w * h / 30**2)
    assert min(shown) >= on_canvas * 0.95
    assert (min(shown) < 0.6) == cut
    assert max(shown) == pytest.approx(1, rel=0.1)


def test_the_centre_is_no_better_than_elsewhere_when_drawings_stick_out():
    """AUC of a score that prefers the middle, on the patches of 5 x 5 that show the first drawing."""
    axis = np.square(np.arange(5) - 2.0)
    prior = -(axis[:, None] + axis).reshape(1, -1)

    def auc(on_canvas):
        look = scenes.Look(64, 0.38, 0.54, 20, on_canvas)
        boxes = np.array(
            [
                scenes.render_scene(np.random.default_rng(seed), _squares(3), look).boxes[0] / 64
                for seed in range(200)
            ]
        )
        boxes[:, 2:] += boxes[:, :2]
        labels = np.asarray(patch_labels(jnp.asarray(boxes), 5))
        return roc_auc(np.repeat(prior, len(labels), axis=0), labels).mean()

    assert auc(1.0) > 0.7
    assert auc(0.5) < 0.6


def test_crowded_scenes_terminate_and_keep_their_drawings(black):
    look = scenes.Look(canvas=64, min_size=0.6, max_size=0.6, rotation=45)
    for seed in range(10):
        scene = scenes.render_scene(np.random.default_rng(seed), _squares(5), look)
        assert (scene.boxes[:, 2:] > 8).all()


def test_rendering_depends_only_on_the_seed():
    first, again, other = (
        scenes.render_scene(np.random.default_rng(seed), _squares(4), scenes.Look())
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert (first.image != other.image).any()


def test_transparent_pixels_show_the_background():
    drawing = np.zeros((40, 40, 4), np.uint8)
    drawing[:20] = 255
    scene = scenes.render_scene(
        np.random.default_rng(0), [drawing], scenes.Look(rotation=0, min_size=0.5)
    )
    x, y, w, h = scene.boxes[0]
    assert abs(w / h - 2) < 0.2
    below = scene.image[y + h + 2 : y + h + 6, x : x + w]
    assert below.mean() < 250


@pytest.mark.parametrize("pattern", backgrounds.PATTERNS)
def test_backgrounds_stay_between_their_colours(pattern):
    colours = np.array([[10, 200, 50], [200, 20, 60]], np.float32)
    pixels = pattern(np.random.default_rng(0), 48, colours)
    assert pixels.shape == (48, 48, 3)
    assert (pixels >= colours.min(0) - 0.01).all()
    assert (pixels <= colours.max(0) + 0.01).all()
    assert (np.ptp(pixels, axis=(0, 1)).max() > 50) == (pattern is not backgrounds.plain)


def test_captions_list_the_phrases_in_two_orders():
    phrases = ["a lemon", "two dogs", "a cat"]
    openings = set()
    for seed in range(100):
        pair = captions.write_captions(np.random.default_rng(seed), phrases, "striped")
        first, second = (sorted(phrases, key=caption.index) for caption in pair)
        assert first != second
        for caption, order in zip(pair, (first, second), strict=True):
            assert captions.join(order) in caption
            assert "{" not in caption
            openings.add(caption.replace(captions.join(order), "…"))
    assert len(openings) == len(captions.TEMPLATES)


def test_joined_phrases():
    assert captions.join(["a lemon"]) == "a lemon"
    assert captions.join(["a lemon", "two skis"]) == "a lemon and two skis"
    assert captions.join(["a lemon", "a dog", "a cat"]) == "a lemon, a dog and a cat"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"canvas": 8}, "canvas=8"),
        ({"min_size": 0.5, "max_size": 0.4}, "min_size=0.5, max_size=0.4"),
        ({"max_size": 0.9}, "max_size=0.9"),
        ({"rotation": -1}, "rotation=-1"),
        ({"on_canvas": 0.0}, "on_canvas=0"),
    ],
)
def test_bad_looks_are_named(options, named):
    with pytest.raises(UserError, match=named):
        scenes.Look(**options)
