"""Boxes of pairs, and the second stream of images with their regions."""

import io
from collections import Counter

import numpy as np
import pytest
from listed_sources import (
    ListSource,
    flat_image,
    shapes_source,
    small_iterators,
    take,
    tokenizer_of,
)
from PIL import Image

from timix_jax.data.images.augment import Augment
from timix_jax.data.records.schema import Record, Region


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(shapes_source())


@pytest.fixture
def open_train(tokenizer):
    with small_iterators(tokenizer, num_threads=2) as start:
        yield start


@pytest.mark.parametrize("boxes_of", ["named", "clutter"])
def test_boxes_are_those_that_the_caption_names_or_the_others(open_train, tokenizer, boxes_of):
    """Draw a blue and a green square; the caption decides which box is returned."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[2:12, 4:14, 2], pixels[18:30, 16:28, 1] = 255, 255
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    regions = (
        Region("one", (4, 2, 10, 10), (0,)),
        Region("two", (16, 18, 12, 12), (1,)),
        Region("three", (0, 0, 5, 5), ()),
    )[: 3 if boxes_of == "named" else 2]
    source = ListSource(
        [Record(str(i), buffer.getvalue(), ("one", "two"), regions) for i in range(8)]
    )
    first = tokenizer.encode(["one"], 12)[0]
    iterator = open_train(
        [source], augment=Augment(crop_min=0.5), boxes_of=boxes_of, image_size=64, max_regions=4
    )
    found = 0
    for batch in take(iterator, 20):
        assert (batch["box_mask"].sum(1) <= 1).all()
        assert not batch["box_mask"][:, 1:].any()
        for row in np.flatnonzero(batch["box_mask"][:, 0]):
            says_one = bool((batch["tokens"][row] == first).all())
            channel = 2 if says_one == (boxes_of == "named") else 1
            rows, columns = np.nonzero(batch["image"][row, ..., channel] > 127)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(batch["boxes"][row, 0] * 64, extent, atol=1.01)
            found += 1
    assert found > 80


def test_each_view_of_the_region_stream_has_a_region(open_train, tokenizer):
    """Place one small box in the corner of the image, where most crops miss it."""
    image = flat_image(9, 64)
    regions = (Region("one", (60, 60, 4, 4)),)
    records = [Record(str(i), image, ("a picture",), regions if i % 2 else ()) for i in range(20)]
    source = ListSource(records, annotated=range(1, 20, 2))
    iterator = open_train([source], augment=Augment(crop_min=0.1), region_batch_size=8)
    expected = tokenizer.encode(["one", ""], 12)
    for batch in take(iterator, 20):
        regions = batch["regions"]
        np.testing.assert_array_equal(regions["mask"].sum(1), 1)
        np.testing.assert_array_equal(regions["tokens"][:, :2], np.stack([expected] * 8))
        width = regions["boxes"][:, 0, 2:] - regions["boxes"][:, 0, :2]
        assert (width > 0).all()


def test_regions_that_name_a_side_are_never_mirrored(open_train):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    for text, mirrored in (("the left half", False), ("one half", True)):
        regions = (Region("two", (0, 0, 16, 16)), Region(text, (0, 0, 8, 16)))
        records = [Record(str(i), buffer.getvalue(), ("a picture",), regions) for i in range(8)]
        source = ListSource(records, annotated=range(8))
        iterator = open_train([source], augment=Augment(), region_batch_size=8, max_regions=1)
        images = [image for batch in take(iterator, 4) for image in batch["regions"]["image"]]
        assert any(image[0, 0, 0] == 0 for image in images) is mirrored


def test_region_stream_samples_from_many_regions(open_train, tokenizer):
    regions = tuple(Region(text, (0, 0, 16, 16)) for text in ("one", "two", "three", "four"))
    source = ListSource(
        [Record(str(i), flat_image(9), ("a picture",), regions) for i in range(8)],
        annotated=range(8),
    )
    rows = {tokenizer.encode([r.text], 12)[0].tobytes(): r.text for r in regions}
    iterator = open_train([source], augment=Augment(), region_batch_size=8, max_regions=2)
    drawn = Counter()
    for batch in take(iterator, 20):
        for tokens in batch["regions"]["tokens"]:
            pair = [rows[row.tobytes()] for row in tokens]
            assert pair[0] != pair[1]
            drawn.update(pair)
    assert min(drawn[r.text] for r in regions) > 50
