"""What the log says of batches that may hold an example twice, and whether it is true."""

import numpy as np
import pytest
from absl import logging
from listed_sources import flat_source, small_iterators, take, tokenizer_of

from timix_jax.data.loading.epoch_borders import log_epoch_borders


@pytest.fixture
def lines(monkeypatch):
    found = {"info": [], "warning": []}
    for level, texts in found.items():
        monkeypatch.setattr(
            logging, level, lambda text, *args, texts=texts: texts.append(text % args)
        )
    return found


def repeats(sources, weights, batch_size, steps):
    """Return the number of pairs of rows of a batch that hold the same example, over some steps."""
    with small_iterators(tokenizer_of(sources[0])) as start:
        batches = take(start(sources, weights, batch_size=batch_size), steps)
    counts = [np.unique(batch["example_id"], return_counts=True)[1] for batch in batches]
    return sum(int((count * (count - 1) // 2).sum()) for count in counts)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "said"), [((23, 17), 8, False), ((24, 10), 8, True), ((8,), 8, False)]
)
def test_borders_inside_batches_are_said(lines, sizes, batch_size, said):
    sources = [flat_source(size, str(size)) for size in sizes]
    log_epoch_borders(sources, None, batch_size)
    assert len(lines["info"]) == said
    assert not lines["warning"]
    found = repeats(sources, None, batch_size, 10 * sum(sizes) // batch_size)
    assert (found > 0) == said
    if said:
        assert "an epoch of 34 examples ends inside a batch of 8" in lines["info"][0]
        assert lines["info"][0].endswith("(about 0.31 per epoch)")
        assert 1 <= found <= 10  # 3.1 expected


def test_a_small_source_with_a_large_weight_is_warned_of(lines):
    sources = [flat_source(4, "few"), flat_source(60, "many")]
    log_epoch_borders(sources, (3.0, 1.0), 8)
    assert [
        line.startswith("few: 4 examples, but 6 of each batch") for line in lines["warning"]
    ] == [True]
    assert repeats(sources, (3.0, 1.0), 8, 5) >= 5
    log_epoch_borders(sources, (1.0, 3.0), 8)
    assert len(lines["warning"]) == 1


@pytest.mark.parametrize(("size", "said"), [(17, True), (16, False)])
def test_epochs_of_weighted_sources_end_inside_batches(lines, size, said):
    sources = [flat_source(size, "a"), flat_source(size, "b")]
    log_epoch_borders(sources, (1.0, 1.0), 16)
    found = repeats(sources, (1.0, 1.0), 16, 12)
    if said:
        assert lines["info"][0].endswith("(about 5.9e+02 per 1,000 steps)")
        assert 2 <= found <= 14  # 7.1 expected
    else:
        assert (lines["info"], found) == ([], 0)
