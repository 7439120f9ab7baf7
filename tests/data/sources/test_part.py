"""Parts of sources: which examples they hold, with their regions."""

import numpy as np
import pytest

from timix_jax.data.sources import describe_sources, open_source
from timix_jax.errors import UserError

WHOLE = "synthetic:?examples=10&size=16&regions=2"


def keys(spec):
    source = open_source(spec)
    return [source[index].key for index in range(len(source))]


def test_first_and_block():
    every = keys(WHOLE)
    assert keys(f"{WHOLE}&first=4") == every[:4]
    blocks = [keys(f"{WHOLE}&block={number}/3") for number in range(3)]
    assert [len(block) for block in blocks] == [3, 3, 4]
    assert [key for block in blocks for key in block] == every
    assert keys(f"{WHOLE}&block=1/2&first=4") == every[2:4]  # first, then the block


def test_regions_stay_with_their_examples():
    source = open_source(f"{WHOLE}&annotated=0.5")
    part = open_source(f"{WHOLE}&annotated=0.5&block=1/2")
    expected = source.annotated[source.annotated >= 5] - 5
    np.testing.assert_array_equal(part.annotated, expected)
    with pytest.raises(IndexError, match="index 5 of 5"):
        part[5]


def test_a_resumed_run_can_tell_parts_apart():
    parts = [open_source(f"{WHOLE}&block={number}/2") for number in range(2)]
    assert parts[0].name != parts[1].name
    assert [entry["examples"] for entry in describe_sources(parts)] == [5, 5]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("first=0", "give a number from 1 to 10"),
        ("first=11", "give a number from 1 to 10"),
        ("first=few", "give a number"),
        ("block=3/3", "write K/M"),
        ("block=1", "write K/M"),
        ("block=0/11", "0 <= K < M <= 10"),
        ("first=3&first=4", "given twice"),
        ("frist=3", "did you mean 'first'"),
    ],
)
def test_parts_that_do_not_exist(part, message):
    with pytest.raises(UserError, match=message):
        open_source(f"{WHOLE}&{part}")
