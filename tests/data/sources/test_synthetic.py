"""The synthetic source."""

import numpy as np
import pytest
from listed_sources import shapes_source

from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.errors import UserError


def test_synthetic_source_is_deterministic_and_true():
    synthetic = shapes_source()
    again = open_synthetic(examples=40, size=32, captions=3, regions=2)
    assert [synthetic[i] for i in range(40)] == [again[i] for i in range(40)]
    assert len({synthetic[i].image for i in range(40)}) == 40
    for i in range(40):
        record = synthetic[i]
        first, second = (np.array(region.box) for region in record.regions)
        assert record.regions[0].text in record.captions[0]
        if " above " in record.captions[0]:
            assert first[1] + first[3] <= second[1]
        if " left of " in record.captions[0]:
            assert first[0] + first[2] <= second[0]
    with pytest.raises(UserError):
        open_synthetic(examples=0)
    with pytest.raises(UserError):
        open_synthetic("train")
