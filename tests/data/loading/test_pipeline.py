"""The pipeline: seeking, processes, epochs, mixtures, corrupt examples, regions."""

import functools
import io
from collections import Counter

import cv2
import numpy as np
import pytest
from absl import logging
from listed_sources import (
    ListSource,
    flat_image,
    flat_source,
    shapes_source,
    small_iterators,
    take,
    tokenizer_of,
)
from PIL import Image

from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.data.loading.example_stream import MakeExamples, open_readers
from timix_jax.data.record_schema import CorruptExample, Record, Region
from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.errors import UserError


@pytest.fixture(scope="module")
def synthetic():
    return shapes_source()


@pytest.fixture(scope="module")
def tokenizer(synthetic):
    return tokenizer_of(synthetic)


@pytest.fixture
def open_train(tokenizer):
    """make_train_iterator with small defaults; all iterators are closed."""
    with small_iterators(tokenizer, num_threads=2) as start:
        yield start


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, two[name])
        else:
            np.testing.assert_array_equal(value, two[name], err_msg=name)
            assert value.dtype == two[name].dtype


def test_shapes_and_types(open_train, synthetic):
    batch = next(open_train([synthetic], with_boxes=True, region_batch_size=4, max_regions=3))
    regions = batch.pop("regions")
    found = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert found == {
        "image": ((8, 16, 16, 3), "uint8"),
        "tokens": ((8, 12), "int32"),
        "example_id": ((8,), "int64"),
        "boxes": ((8, 3, 4), "float32"),
        "box_mask": ((8, 3), "bool"),
    }
    assert {name: (value.shape, value.dtype.name) for name, value in regions.items()} == {
        "image": ((4, 16, 16, 3), "uint8"),
        "tokens": ((4, 3, 12), "int32"),
        "boxes": ((4, 3, 4), "float32"),
        "mask": ((4, 3), "bool"),
    }


def test_seeking_gives_the_uninterrupted_stream(open_train, synthetic):
    options = {"with_boxes": True, "region_batch_size": 4}
    whole = take(open_train([synthetic], **options), 12)
    for start, threads in ((0, 0), (5, 1), (9, 3)):
        iterator = open_train([synthetic], start_step=start, num_threads=threads, **options)
        assert iterator.state == {"next_index": start}
        for expected, batch in zip(whole[start:], iterator, strict=False):
            assert_same(expected, batch)
    iterator.seek(2)
    assert_same(whole[2], next(iterator))
    assert iterator.state == {"next_index": 3}


def test_seeds_differ(open_train, synthetic):
    first = next(open_train([synthetic], seed=1))
    second = next(open_train([synthetic], seed=2))
    assert first["example_id"].tolist() != second["example_id"].tolist()


@pytest.mark.parametrize("weights", [None, (3.0, 1.0)])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("rows_of", ["blocks", "every second", "all of them"])
def test_processes_share_the_global_batch(open_train, synthetic, count, weights, rows_of):
    sources = [synthetic, open_synthetic(examples=24, size=32, captions=3, regions=1, seed=5)]
    options = {"region_batch_size": 4, "with_boxes": True}
    whole = take(open_train(sources, weights, **options), 7)

    def rows(host, size):
        if rows_of == "blocks":
            return range(host * size // count, (host + 1) * size // count)
        return range(host, size, count) if rows_of == "every second" else range(size)

    parts = [
        take(open_train(sources, weights, own_rows=functools.partial(rows, h), **options), 7)
        for h in range(count)
    ]
    for step, expected in enumerate(whole):
        for host in range(count):
            mine = dict(parts[host][step])
            mine_regions = mine.pop("regions")
            rest = {name: value for name, value in expected.items() if name != "regions"}
            own = np.array(rows(host, 8))
            assert_same({name: value[own] for name, value in rest.items()}, mine)
            own = np.array(rows(host, 4))
            slices = {name: value[own] for name, value in expected["regions"].items()}
            assert_same(slices, mine_regions)


def test_every_example_once_an_epoch_in_a_new_order(open_train):
    sources = [flat_source(23, "a"), flat_source(17, "b")]
    ids = np.concatenate([b["example_id"] for b in take(open_train(sources), 15)])
    epochs = ids.reshape(3, 40)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))
    assert (epochs[0] != epochs[1]).any()
    # Shuffled over the sources, not one after the other.
    assert 0 < (epochs[0][:20] < 23).sum() < 20


def test_example_ids_name_the_image(open_train):
    iterator = open_train([flat_source(40, "a"), flat_source(40, "b")], augment=Augment())
    for batch in take(iterator, 10):
        expected = batch["example_id"] % 40
        np.testing.assert_array_equal(batch["image"][:, 3, 3, 0], expected)


def test_mixture_has_the_asked_proportions(open_train):
    sources = [flat_source(10, "a"), flat_source(50, "b"), flat_source(7, "c")]
    ids = np.concatenate([b["example_id"] for b in take(open_train(sources, (5, 3, 2)), 50)])
    shares = [np.mean(ids < 10), np.mean((ids >= 10) & (ids < 60)), np.mean(ids >= 60)]
    np.testing.assert_allclose(shares, (0.5, 0.3, 0.2), atol=0.005)
    # Each source by epochs of its own.
    mine = ids[ids < 10]
    assert Counter(mine[:200].tolist()) == dict.fromkeys(range(10), 20)


def test_captions_are_drawn_at_random(open_train, tokenizer):
    texts = ("one", "two", "three", "four")
    rows = {tokenizer.encode([text], 12)[0].tobytes(): text for text in texts}
    iterator = open_train([flat_source(8, captions=texts)])
    drawn = Counter(rows[r.tobytes()] for b in take(iterator, 100) for r in b["tokens"])
    assert set(drawn) == set(texts)
    assert min(drawn.values()) > 150


def test_an_image_with_a_side_in_its_caption_is_never_flipped(open_train, tokenizer):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255
    image = cv2.imencode(".png", pixels)[1].tobytes()
    texts = ("the disc is left of two", "four")
    side = tokenizer.encode(texts[:1], 12)[0]
    source = ListSource([Record(str(i), image, texts) for i in range(8)])
    flipped = {True: [], False: []}
    for batch in take(open_train([source], augment=Augment()), 40):
        for picture, tokens in zip(batch["image"], batch["tokens"], strict=True):
            flipped[bool((tokens == side).all())].append(picture[0, 0, 0] == 0)
    assert not any(flipped[True])
    assert 0.3 < np.mean(flipped[False]) < 0.7
    assert len(flipped[True]) > 100


def test_corrupt_examples_are_replaced_counted_and_named(open_train, monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    source = flat_source(40, "photos", bad=(3, 4, 11))
    source.records[20] = None
    epoch = take(open_train([source], augment=Augment(crop_min=0.5)), 5)
    ids = Counter(np.concatenate([batch["example_id"] for batch in epoch]).tolist())
    assert ids == Counter(range(40)) - Counter([3, 4, 11, 20]) + Counter([5, 5, 12, 21])
    iterator = open_train([source], augment=Augment(crop_min=0.5), num_threads=0)
    first = take(iterator, 5)
    assert iterator.skipped == 4
    assert iterator.skipped_by_source == {"photos": 4}
    for name in ("photos-3:", "photos-4:", "photos-11:", "photos-20:"):
        assert sum(name in message for message in messages) == 2  # once an iterator
    # Known to be corrupt or not, the replacement and its augmentation are the same.
    iterator.seek(0)
    for one, two in zip(first, take(iterator, 5), strict=True):
        assert_same(one, two)


def test_a_source_of_corrupt_examples_stops(open_train):
    with pytest.raises(
        UserError, match=r"photos: 12 examples in a row are corrupt.*photos-[^\n]*$"
    ):
        next(open_train([flat_source(12, "photos", bad=range(12))]))


def test_boxes_are_those_that_the_caption_names(open_train, tokenizer):
    """A blue and a green square; the caption decides whose box is given."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[2:12, 4:14, 2], pixels[18:30, 16:28, 1] = 255, 255
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    regions = (
        Region("one", (4, 2, 10, 10), (0,)),
        Region("two", (16, 18, 12, 12), (1,)),
        Region("three", (0, 0, 5, 5), ()),
    )
    source = ListSource(
        [Record(str(i), buffer.getvalue(), ("one", "two"), regions) for i in range(8)]
    )
    first = tokenizer.encode(["one"], 12)[0]
    iterator = open_train(
        [source], augment=Augment(crop_min=0.5), with_boxes=True, image_size=64, max_regions=4
    )
    found = 0
    for batch in take(iterator, 20):
        assert (batch["box_mask"].sum(1) <= 1).all()
        assert not batch["box_mask"][:, 1:].any()
        for row in np.flatnonzero(batch["box_mask"][:, 0]):
            channel = 2 if (batch["tokens"][row] == first).all() else 1
            rows, columns = np.nonzero(batch["image"][row, ..., channel] > 127)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(batch["boxes"][row, 0] * 64, extent, atol=1.01)
            found += 1
    assert found > 80


def test_region_stream_has_a_region_in_each_view(open_train, tokenizer):
    """One small box in the corner of the image: most windows miss it."""
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


def test_region_stream_draws_among_many(open_train, tokenizer):
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 41}, "40 examples, fewer than batch_size=41; set it to 40 or less"),
        ({"image_size": 0}, "image_size=0"),
        ({"max_tokens": 1}, "max_tokens=1"),
        ({"region_batch_size": 41}, "40 annotated .* region_batch_size=41; set it to 40 or less"),
        ({"weights": (1.0, 2.0)}, "1 sources need one each"),
        ({"weights": (0.0,)}, "give positive numbers"),
    ],
)
def test_bad_options_are_named(open_train, synthetic, options, words):
    with pytest.raises(UserError, match=words):
        open_train([synthetic], **options)


def test_empty_sources_are_named(open_train):
    with pytest.raises(UserError, match="nothing: holds no examples"):
        open_train([ListSource([], "nothing")])
    with pytest.raises(UserError, match="no data source"):
        open_train([])


def test_a_replacement_has_the_same_draws_whether_or_not_the_corrupt_one_was_tried_first():
    class Source:
        name = "two"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return index

    def draw(record, rng, spec):
        drawn = rng.random(3)
        if record == 0:  # found to be corrupt behind its draws, as an image that cannot be decoded
            raise CorruptExample("0", "cannot be decoded")
        return {"drawn": drawn}

    readers = open_readers([Source()], [range(2)], CorruptExamples())
    make = MakeExamples(readers, draw, None)
    tried, known, itself = (make(at, np.random.default_rng(0)) for at in (0, 0, 1))
    assert tried["example_id"] == known["example_id"] == 1
    np.testing.assert_array_equal(tried["drawn"], itself["drawn"])
    np.testing.assert_array_equal(known["drawn"], itself["drawn"])
