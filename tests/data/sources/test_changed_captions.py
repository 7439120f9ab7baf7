"""Sources with fewer captions per example, or those of other examples."""

import numpy as np
import pytest

from timix_jax.data.records.schema import CorruptExample
from timix_jax.data.sources import describe_sources, open_source
from timix_jax.data.sources.changed_captions import change_captions
from timix_jax.errors import UserError

WHOLE = "synthetic:?examples=40&size=16&regions=2"


def records(spec):
    source = open_source(spec)
    return [source[index] for index in range(len(source))]


@pytest.mark.parametrize(("share", "count"), [("0.2", 8), ("0.5", 20), ("1", 40), ("0", 0)])
def test_a_share_of_the_examples_has_the_captions_of_another_one(share, count):
    right, changed = records(WHOLE), records(f"{WHOLE}&wrong_captions={share}")
    assert [r.image for r in changed] == [r.image for r in right]
    # Texts may be equal by chance: count by the giver of each text.
    assert sorted(r.captions for r in changed) == sorted(r.captions for r in right)
    source = open_source(f"{WHOLE}&wrong_captions={share}")
    if count:
        assert int((source._giver != np.arange(40)).sum()) == count


def test_what_is_wrong_with_a_smaller_share_is_wrong_with_a_larger_one():
    few, many = (open_source(f"{WHOLE}&wrong_captions={share}")._giver for share in (0.2, 0.4))
    here = np.arange(40)
    assert set(here[few != here]) < set(here[many != here])


def test_no_caption_mentions_the_regions_of_an_image_that_got_other_captions():
    source = open_source(f"{WHOLE}&wrong_captions=0.5")
    wrong = source._giver != np.arange(40)
    mentioned = np.array([any(r.captions for r in source[i].regions) for i in range(40)])
    named = np.array([any(r.captions for r in record.regions) for record in records(WHOLE)])
    assert named.any()
    np.testing.assert_array_equal(mentioned, named & ~wrong)
    np.testing.assert_array_equal(source.annotated, open_source(WHOLE).annotated)


def test_few_captions_and_the_regions_that_they_mention():
    concepts = "emoji:trained_vendor?scenes=6&concepts=24&heldout=4&canvas=32"
    for whole, one in zip(records(concepts), records(f"{concepts}&max_captions=1"), strict=True):
        assert len(whole.captions) == 2
        assert one.captions == whole.captions[:1]
        assert [r.box for r in one.regions] == [r.box for r in whole.regions]
        assert {r.captions for r in one.regions} <= {(0,), ()}
        assert any(r.captions == (0,) for r in one.regions)


class Damaged:
    """Two examples, of which the second is corrupt."""

    name, annotated = "damaged", np.zeros(0, np.int64)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            raise CorruptExample("second", "damaged")
        return open_source(WHOLE)[0]


def test_a_corrupt_giver_costs_no_whole_example():
    source = change_captions(Damaged(), {"wrong_captions": "1"})
    assert source[0].captions == open_source(WHOLE)[0].captions
    with pytest.raises(CorruptExample, match="second"):
        source[1]


def test_a_resumed_run_can_tell_them_apart():
    whole = open_source(WHOLE)
    whole.digest = "abc"
    options = [{}, {"wrong_captions": "0.2"}, {"max_captions": "1"}]
    sources = [change_captions(whole, option) for option in options]
    assert len({source.name for source in sources}) == 3
    assert len({entry["digest"] for entry in describe_sources(sources)}) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_captions=0", "max_captions=0; give a number of at least 1"),
        ("max_captions=all", "give a number"),
        ("wrong_captions=1.5", "wrong_captions=1.5; give a share from 0 to 1"),
        ("wrong_captions=nan", "give a share"),
        ("wrong_captions=some", "give a share"),
        ("max_captoins=1", "did you mean 'max_captions'"),
    ],
)
def test_captions_that_make_no_sense(option, message):
    with pytest.raises(UserError, match=message):
        open_source(f"{WHOLE}&{option}")
