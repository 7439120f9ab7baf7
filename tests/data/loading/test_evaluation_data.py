"""Batches for evaluation: every image, caption and region once."""

import cv2
import numpy as np
import pytest
from listed_sources import ListSource, flat_image, flat_source, shapes_source, tokenizer_of

from timix_jax.data.loading.evaluation import caption_batches, image_batches, region_batches
from timix_jax.data.loading.share import Share
from timix_jax.data.records.schema import Record, Region
from timix_jax.errors import UserError


@pytest.fixture(scope="module")
def synthetic():
    return shapes_source()


@pytest.fixture(scope="module")
def tokenizer(synthetic):
    return tokenizer_of(synthetic)


def test_image_batches_hold_every_image_once(synthetic):
    batches = list(image_batches(synthetic, image_size=32, batch_size=16))
    assert {batch["image"].shape for batch in batches} == {(16, 32, 32, 3)}
    valid = np.concatenate([batch["valid"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])[valid]
    np.testing.assert_array_equal(index, np.arange(40))
    images = np.concatenate([batch["image"] for batch in batches])
    decoded = cv2.imdecode(np.frombuffer(synthetic[5].image, np.uint8), 1)[..., ::-1]
    np.testing.assert_array_equal(images[5], decoded)


def test_caption_batches_hold_every_caption_once(synthetic, tokenizer):
    batches = list(caption_batches(synthetic, tokenizer, max_tokens=12, batch_size=32))
    assert {batch["tokens"].shape for batch in batches} == {(32, 12)}
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(valid, np.arange(128) < 120)
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    owners = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(owners[valid], np.repeat(np.arange(40), 3))
    expected = [caption for i in range(40) for caption in synthetic[i].captions]
    np.testing.assert_array_equal(tokens[valid], tokenizer.encode(expected, 12))


def test_region_batches_hold_every_region(tokenizer):
    regions = tuple(Region("one", (i, 0, 4, 8)) for i in range(5))
    records = [
        Record(str(i), flat_image(i), ("a picture",), regions if i % 3 == 0 else ())
        for i in range(10)
    ]
    batches = list(
        region_batches(
            ListSource(records, annotated=(0, 3, 6, 9)),
            tokenizer,
            image_size=8,
            max_tokens=12,
            batch_size=4,
            max_regions=3,
        )
    )
    assert {batch["image"].shape for batch in batches} == {(4, 8, 8, 3)}
    masks = np.concatenate([batch["mask"] for batch in batches])
    boxes = np.concatenate([batch["boxes"] for batch in batches])
    assert masks.sum(1).tolist() == [3, 2] * 4  # five regions take two rows
    np.testing.assert_allclose(boxes[masks][:5, 0] * 16, np.arange(5))
    np.testing.assert_allclose(boxes[masks][:, 2:] - boxes[masks][:, :2], [[0.25, 0.5]] * 20)
    images = np.concatenate([batch["image"] for batch in batches])
    assert images[::2, 0, 0, 0].tolist() == [0, 3, 6, 9]
    assert np.concatenate([batch["index"] for batch in batches])[::2].tolist() == [0, 3, 6, 9]


class RecordingSource:
    """A source that records which examples are read."""

    def __init__(self, source):
        self.source, self.name, self.read = source, source.name, []
        self.annotated = source.annotated[::3]

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read.append(index)
        return self.source[index]


@pytest.mark.parametrize("kind", ["images", "captions", "regions"])
def test_processes_share_the_reading(synthetic, tokenizer, kind):
    """Check that each process reads only its own examples and parts are the same on 1 to 3 processes."""

    def read(share):
        source = RecordingSource(synthetic)
        common = {"batch_size": 12, "share": share}
        if kind == "images":
            batches = image_batches(source, image_size=8, **common)
        elif kind == "captions":
            batches = caption_batches(source, tokenizer, max_tokens=12, **common)
        else:
            batches = region_batches(
                source, tokenizer, image_size=8, max_tokens=12, max_regions=1, **common
            )
        batches = list(batches)
        rows = 12 // share.parts
        parts = {
            part: [{k: v[n * rows : (n + 1) * rows] for k, v in b.items()} for b in batches]
            for n, part in enumerate(share.own)
        }
        return source, parts

    whole, expected = read(Share(6, tuple(range(6))))
    all_examples = range(40) if kind != "regions" else whole.annotated.tolist()
    assert sorted(whole.read) == list(all_examples)
    for split in ([(0, 1, 2), (3, 4, 5)], [(0,), (1, 4), (2, 3, 5)]):
        read_by_all = []
        for own in split:
            source, parts = read(Share(6, own))
            assert sorted(source.read) == sorted(i for part in own for i in all_examples[part::6])
            read_by_all += source.read
            for part, batches in parts.items():
                for got, want in zip(batches, expected[part], strict=False):
                    assert got["valid"].any() or not want["valid"].any()
                    for name in want:
                        np.testing.assert_array_equal(got[name], want[name])
                rest = expected[part][len(batches) :]  # padding, because other parts are longer
                assert not any(batch["valid"].any() for batch in rest)
        assert sorted(read_by_all) == list(all_examples)


def test_share_without_examples_yields_one_empty_batch(tokenizer):
    source = flat_source(1)
    share = Share(4, (2, 3))
    (batch,) = caption_batches(source, tokenizer, max_tokens=12, batch_size=8, share=share)
    assert batch["tokens"].shape == (4, 12)
    assert not batch["valid"].any()


def test_corrupt_image_stops_the_evaluation():
    with pytest.raises(UserError, match=r"photos-7[^\n]*$"):
        list(image_batches(flat_source(9, "photos", bad=(7,)), image_size=8, batch_size=4))
