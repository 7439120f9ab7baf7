"""The training pipeline: seeking, processes, epochs, weighted sources, corrupt examples."""

import functools
from collections import Counter

import cv2
import numpy as np
import pytest
from absl import logging
from listed_sources import (
    ListSource,
    flat_source,
    shapes_source,
    skipped_by_source,
    small_iterators,
    take,
    tokenizer_of,
)

from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.data.loading.example_stream import MakeExamples, open_readers
from timix_jax.data.records.schema import CorruptExample, Record
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
    """Yield `make_train_iterator` with small defaults and two threads."""
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
    batch = next(open_train([synthetic], boxes_of="named", region_batch_size=4, max_regions=3))
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


def test_seeking_continues_the_uninterrupted_stream(open_train, synthetic):
    options = {"boxes_of": "named", "region_batch_size": 4}
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


@pytest.mark.parametrize(("count", "weights"), [(2, None), (4, (3.0, 1.0))])
@pytest.mark.parametrize("rows_of", ["blocks", "strided", "all"])
def test_processes_share_the_global_batch(open_train, synthetic, count, weights, rows_of):
    sources = [synthetic, open_synthetic(examples=24, size=32, captions=3, regions=1, seed=5)]
    options = {"region_batch_size": 4, "boxes_of": "named"}
    whole = take(open_train(sources, weights, **options), 7)

    def rows(host, size):
        if rows_of == "blocks":
            return range(host * size // count, (host + 1) * size // count)
        return range(host, size, count) if rows_of == "strided" else range(size)

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


def test_each_epoch_has_every_example_once_in_a_new_order(open_train):
    sources = [flat_source(23, "a"), flat_source(17, "b")]
    ids = np.concatenate([b["example_id"] for b in take(open_train(sources), 15)])
    epochs = ids.reshape(3, 40)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))
    assert (epochs[0] != epochs[1]).any()
    # Shuffled across sources, not one source after the other.
    assert 0 < (epochs[0][:20] < 23).sum() < 20


def test_example_ids_name_the_image(open_train):
    iterator = open_train([flat_source(40, "a"), flat_source(40, "b")], augment=Augment())
    for batch in take(iterator, 10):
        expected = batch["example_id"] % 40
        np.testing.assert_array_equal(batch["image"][:, 3, 3, 0], expected)


def test_weighted_sources_have_the_requested_proportions(open_train):
    sources = [flat_source(10, "a"), flat_source(50, "b"), flat_source(7, "c")]
    ids = np.concatenate([b["example_id"] for b in take(open_train(sources, (5, 3, 2)), 50)])
    shares = [np.mean(ids < 10), np.mean((ids >= 10) & (ids < 60)), np.mean(ids >= 60)]
    np.testing.assert_allclose(shares, (0.5, 0.3, 0.2), atol=0.005)
    # Each source goes through its own epochs.
    mine = ids[ids < 10]
    assert Counter(mine[:200].tolist()) == dict.fromkeys(range(10), 20)


def test_captions_are_drawn_at_random(open_train, tokenizer):
    texts = ("one", "two", "three", "four")
    rows = {tokenizer.encode([text], 12)[0].tobytes(): text for text in texts}
    iterator = open_train([flat_source(8, captions=texts)])
    drawn = Counter(rows[r.tobytes()] for b in take(iterator, 100) for r in b["tokens"])
    assert set(drawn) == set(texts)
    assert min(drawn.values()) > 150


def test_image_whose_caption_mentions_a_side_is_never_flipped(open_train, tokenizer):
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


def test_corrupt_examples_are_replaced_counted_and_logged(open_train, monkeypatch):
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
    assert skipped_by_source(iterator) == {"photos": 4}
    for name in ("photos-3:", "photos-4:", "photos-11:", "photos-20:"):
        assert sum(name in message for message in messages) == 2  # once per iterator
    # The replacement and its augmentation do not depend on whether the corruption was known.
    iterator.seek(0)
    for one, two in zip(first, take(iterator, 5), strict=True):
        assert_same(one, two)


def test_source_of_only_corrupt_examples_is_an_error(open_train):
    with pytest.raises(
        UserError, match=r"photos: 12 examples in a row are corrupt.*photos-[^\n]*$"
    ):
        next(open_train([flat_source(12, "photos", bad=range(12))]))


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


def test_replacement_has_the_same_draws_whether_or_not_the_corrupt_example_was_tried():
    class Source:
        name = "two"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return index

    def draw(record, rng, spec):
        drawn = rng.random(3)
        if record == 0:  # found corrupt only after its draws, like an undecodable image
            raise CorruptExample("0", "cannot be decoded")
        return {"drawn": drawn}

    readers = open_readers([Source()], [range(2)], CorruptExamples())
    make = MakeExamples(readers, draw, None)
    tried, known, itself = (make(at, np.random.default_rng(0)) for at in (0, 0, 1))
    assert tried["example_id"] == known["example_id"] == 1
    np.testing.assert_array_equal(tried["drawn"], itself["drawn"])
    np.testing.assert_array_equal(known["drawn"], itself["drawn"])


def test_further_captions_are_others_of_the_same_image(open_train, tokenizer):
    words = ("one", "two", "three", "four", "a picture")
    for captions, count, distinct in ((words, 3, 4), (words[:2], 3, 2), (words[:1], 2, 1)):
        source = flat_source(24, captions=captions)
        batches = take(open_train([source], more_captions=count), 4)
        known = {tuple(row) for row in tokenizer.encode(captions, 12)}
        orders = set()
        for batch in batches:
            assert batch["captions"].shape == (8, count, 12)
            assert batch["captions"].dtype == np.int32
            for first, more in zip(batch["tokens"], batch["captions"], strict=True):
                rows = [tuple(first), *map(tuple, more)]
                assert set(rows) <= known
                assert len(set(rows)) == distinct
                orders.add(tuple(rows))
        assert len(orders) > 1 or distinct == 1
        again = take(open_train([source], more_captions=count, num_threads=1), 4)
        for one, other in zip(batches, again, strict=True):
            assert_same(one, other)


def test_images_are_mirrored_only_if_no_shown_caption_names_a_side(open_train):
    """One of the captions that a step shows names a side: the flip must not make it wrong."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    captions = ("a picture", "white on the left")
    source = ListSource([Record(f"r{i}", encoded, captions) for i in range(32)])
    plain = Augment(crop_min=1.0, randaugment=0, flip=True)
    for more, mirrored in ((0, True), (1, False)):
        batches = take(open_train([source], more_captions=more, augment=plain), 4)
        flipped = [image[0, 0, 0] == 0 for batch in batches for image in batch["image"]]
        assert any(flipped) is mirrored
