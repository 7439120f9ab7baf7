"""Names of regions in captions: found as a plain search finds them, and replaced by regions of the same name."""

import jax
import numpy as np
import pytest

from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.objectives.views import names as of_names
from timix_jax.objectives.vocabulary import Vocabulary
from timix_jax.training.build.losses import build_vocabulary

PAD, START, END, UNKNOWN = range(4)
ARTICLES, CONTINUING = (4, 5), (10, 11)
SIZE = 12
VOCABULARY = Vocabulary(
    SIZE,
    PAD,
    None,
    (PAD, START, END, UNKNOWN),
    start_id=START,
    end_id=END,
    continues=bytes(index in CONTINUING for index in range(SIZE)),
    articles=ARTICLES,
)

names_of = jax.jit(of_names.names_of, static_argnums=2)
find_names = jax.jit(of_names.find_names, static_argnums=2)
draw_replacements = jax.jit(of_names.draw_replacements, static_argnums=3, static_argnames=("rate",))


def texts(rng, rows, length, low=UNKNOWN):
    """Draw texts of few different words, so that many names are found and overlap."""
    tokens = np.full((rows, length), PAD, np.int32)
    for row in tokens:
        count = rng.integers(0, length - 1)
        row[: count + 2] = [START, *rng.integers(low, SIZE, count), END]
    return tokens


def name_of(text):
    """Return the name of a region as a list; empty for none."""
    words = [int(t) for t in text if t not in (PAD, START, END)]
    while words and words[0] in ARTICLES and words[1:2] not in ([c] for c in CONTINUING):
        words = words[1:]
    return [] if UNKNOWN in words else words


def found_in(caption, names):
    """Return position → name of a caption, by a search from left to right."""
    found, reach = {}, 0
    for start in range(len(caption)):
        if caption[start] in CONTINUING:
            continue
        fitting = [
            name
            for name in names
            if name
            and list(caption[start : start + len(name)]) == name
            and (start + len(name) == len(caption) or caption[start + len(name)] not in CONTINUING)
        ]
        if fitting:
            longest = max(fitting, key=len)
            if start >= reach:
                found[start] = longest
            reach = max(reach, start + len(longest))
    return found


@pytest.mark.parametrize("shape", [(40, 9, 30, 5), (7, 5, 1, 9), (1, 3, 50, 3)])
def test_names_are_those_of_a_plain_search(shape):
    rows, length, regions, longest = shape
    rng = np.random.default_rng(rows)
    captions, named = texts(rng, rows, length), texts(rng, regions, longest)
    mask = rng.random(regions) < 0.8
    names = names_of(named, mask, VOCABULARY)
    expected = [name_of(text) if real else [] for text, real in zip(named, mask, strict=True)]
    for pieces, count, name in zip(*map(np.asarray, names), expected, strict=True):
        assert pieces[:count].tolist() == name
        assert (pieces[count:] == -1).all()
    lengths, first = map(np.asarray, find_names(captions, names, VOCABULARY))
    total = 0
    for row, caption in enumerate(captions):
        found = found_in(caption, expected)
        total += len(found)
        assert np.flatnonzero(lengths[row]).tolist() == list(found)
        for start, name in found.items():
            assert lengths[row, start] == len(name)
            assert first[row, start] == expected.index(name)
    if rows == 40:
        assert total > 20


def one_name(caption, *regions):
    """Return what of a caption is replaced at rate 1."""
    pad = lambda row, length: [START, *row, END] + [PAD] * (length - len(row) - 2)
    tokens = np.array([pad(caption, 10)], np.int32)
    names = names_of(
        np.array([pad(region, 6) for region in [*regions, [], [], []][:3]], np.int32),
        np.ones(3, bool),
        VOCABULARY,
    )
    drawn = draw_replacements(jax.random.key(0), tokens, names, VOCABULARY, rate=1.0)
    at = np.asarray(drawn.at)[0]
    return [(int(i), int(np.asarray(drawn.region)[0, i])) for i in np.flatnonzero(at)]


def test_whole_names_and_whole_words_alone():
    assert one_name([4, 6, 7], [5, 6]) == [(2, 0)]  # another article; the article stays
    assert one_name([6, 10, 7], [6], [7]) == [(3, 1)]  # `6` inside the word `6 ##10`
    assert one_name([6, 10, 7], [4, 6, 10]) == [(1, 0), (2, 0)]  # all pieces of a name
    assert one_name([6, 7, 8], [6], [6, 7], [7, 8]) == [
        (1, 1),
        (2, 1),
    ]  # the longest, then the first
    assert one_name([4, 6], [4]) == []  # an article is no name
    assert one_name([6, 3], [6, 3], [3]) == []  # nor is an unknown word
    assert one_name([6, 6], [7], [6]) == [(1, 1), (2, 1)]


def test_the_rate_is_that_of_the_names_and_regions_of_a_name_are_equally_likely():
    rows, words = 3000, 12
    rng = np.random.default_rng(0)
    captions = np.full((rows, words + 2), PAD, np.int32)
    captions[:, 0], captions[:, -1] = START, END
    captions[:, 1:-1] = rng.integers(6, 10, (rows, words))
    regions = np.array([[START, w, END] for w in (6, 7, 6, 8, 6, 8)], np.int32)
    names = names_of(regions, np.array([True] * 5 + [False]), VOCABULARY)
    for rate in (0.0, 0.3, 1.0):
        drawn = jax.tree.map(
            np.asarray, draw_replacements(jax.random.key(1), captions, names, VOCABULARY, rate=rate)
        )
        possible = np.isin(captions, (6, 7, 8))
        np.testing.assert_array_equal(drawn.named, possible)
        assert not drawn.at[~possible].any()  # nothing shows 9, [CLS] or [SEP]
        shares = 4 * np.sqrt(rate * (1 - rate) / possible.sum())
        assert drawn.at.sum() / possible.sum() == pytest.approx(rate, abs=shares)
    # At rate 1:
    assert set(drawn.region[captions == 7]) == {1}
    assert set(drawn.region[captions == 8]) == {3}  # the other one is masked
    counts = np.bincount(drawn.region[captions == 6], minlength=6)
    assert counts[[1, 3, 5]].sum() == 0
    assert counts[[0, 2, 4]] / counts.sum() == pytest.approx(1 / 3, abs=0.015)
    pairs = drawn.region[(captions == 6) & (np.roll(captions, 1, axis=1) == 6)]
    assert len(set(pairs)) == 3


def test_all_pieces_of_a_name_show_the_same_region():
    captions = np.array([[START, *[6, 10] * 10, END]] * 200, np.int32)
    regions = np.array([[START, 6, 10, END]] * 4, np.int32)
    names = names_of(regions, np.ones(4, bool), VOCABULARY)
    drawn = draw_replacements(jax.random.key(2), captions, names, VOCABULARY, rate=0.5)
    at, region = (np.asarray(x)[:, 1:-1].reshape(-1, 2) for x in (drawn.at, drawn.region))
    np.testing.assert_array_equal(at[:, 0], at[:, 1])
    np.testing.assert_array_equal(region[:, 0], region[:, 1])
    assert at.mean() == pytest.approx(0.5, abs=0.05)
    assert np.bincount(region[:, 0]) / len(region) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_pieces_of_real_tokenizers(kind):
    captions = ["a pineapple and a hot dog", "two hot dogs", "the pineapples"]
    known = ["a dog an apple the hot dog apple pine two and a hot days"] * 9
    tokenizer = train_tokenizer(known, kind=kind, vocab_size=300)
    vocabulary = build_vocabulary(tokenizer)
    assert len(vocabulary.articles) == 3
    regions = tokenizer.encode(["a hot dog", "the pineapple", "an apple", ""], 24)
    names = names_of(regions, np.array([True] * 3 + [False]), vocabulary)
    assert names.length[1] > 2  # pieces of a word that the vocabulary lacks
    for pieces, name in zip(
        np.asarray(names.pieces)[:3], ("hot dog", "pineapple", "apple"), strict=True
    ):
        assert tokenizer.decode(pieces[pieces >= 0]).strip() == name
    tokens = tokenizer.encode(captions, 40)
    drawn = draw_replacements(jax.random.key(0), tokens, names, vocabulary, rate=1.0)
    at, region = np.asarray(drawn.at), np.asarray(drawn.region)
    for number, name in enumerate(("hot dog", "pineapple")):
        assert tokenizer.decode(tokens[0][at[0] & (region[0] == number)]).strip() == name
    assert set(region[0][at[0]]) == {0, 1}  # no apple in the pineapple
    assert not at[1:].any()  # nor a dog among dogs
