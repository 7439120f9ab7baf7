"""Sources mixed by weight, and examples of which only the regions are unusable."""

import itertools

import numpy as np
import pytest
from listed_sources import (
    ListSource,
    flat_image,
    flat_source,
    skipped_by_source,
    small_iterators,
    take,
    tokenizer_of,
)

from timix_jax.data.records.schema import Record, Region
from timix_jax.mixing.fraction import select_rows


@pytest.fixture
def open_train():
    with small_iterators(tokenizer_of(flat_source(1))) as start:
        yield start


@pytest.mark.parametrize(
    "weights",
    [
        (3, 1),
        pytest.param((1, 1), marks=pytest.mark.slow),
        pytest.param((2, 1, 1), marks=pytest.mark.slow),
    ],
)
def test_mixed_rows_come_from_all_sources(open_train, weights):
    sources = [flat_source(40, str(number)) for number in range(len(weights))]
    batches = take(open_train(sources, weights, batch_size=16), 60)
    source_of = np.stack([batch["example_id"] // 40 for batch in batches])
    shares = np.array(weights) / sum(weights)
    np.testing.assert_allclose(np.bincount(source_of.ravel()) / source_of.size, shares, atol=0.01)
    for fraction in (0.25, 0.5):
        rows = select_rows(16, fraction)
        others = np.setdiff1d(np.arange(16), rows)
        for chosen in (rows, others):
            found = np.bincount(source_of[:, chosen].ravel(), minlength=len(weights))
            np.testing.assert_allclose(found / found.sum(), shares, atol=0.15)


def test_weighted_stream_is_the_same_from_any_start_step(open_train):
    sources = [flat_source(40, "a"), flat_source(20, "b")]
    options = {"batch_size": 8, "weights": (2, 1)}
    whole = take(open_train(sources, **options), 9)
    for start in (1, 4, 8):
        rest = take(open_train(sources, start_step=start, **options), 9 - start)
        for one, two in zip(whole[start:], rest, strict=True):
            np.testing.assert_array_equal(one["example_id"], two["example_id"])
            np.testing.assert_array_equal(one["image"], two["image"])


def regions_source():
    """Return a source of images with one box each, which every third image does not contain."""
    inside, outside = Region("one", (0, 0, 8, 8)), Region("one", (20, 20, 4, 4))
    return ListSource(
        [
            Record(str(i), flat_image(i), ("a picture",), (outside if i % 3 == 0 else inside,))
            for i in range(24)
        ],
        annotated=range(24),
    )


@pytest.mark.parametrize("processes", [0, 1])
def test_unusable_regions_do_not_affect_pairs(open_train, processes):
    source = regions_source()
    pairs_only = take(open_train([source], batch_size=6), 16)
    iterator = open_train(
        [source], batch_size=6, region_batch_size=6, num_processes=processes, num_threads=1
    )
    both = take(iterator, 16)
    for one, two in zip(pairs_only, both, strict=True):
        np.testing.assert_array_equal(one["example_id"], two["example_id"])
    ids = list(itertools.chain.from_iterable(batch["example_id"].tolist() for batch in both[:4]))
    assert sorted(ids) == list(range(24))
    assert skipped_by_source(iterator) == {"regions of list": 8}
    assert iterator.skipped == 8
