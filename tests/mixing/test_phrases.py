"""Phrases of captions: how they are drawn, and that windows and joined captions follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing import Sample, build_mixer, with_captions
from timix_jax.mixing.phrases import draw_phrases

CLS, SEP, COMMA, AND = 1, 2, 3, 4
CAPTIONS = np.array(
    [
        [CLS, 10, 11, COMMA, 12, AND, 13, 14, 15, SEP, 0, 0],
        [CLS, 20, 21, SEP, 0, 0, 0, 0, 0, 0, 0, 0],
        [CLS, AND, 30, COMMA, AND, 31, SEP, 0, 0, 0, 0, 0],
        [CLS, COMMA, AND, SEP, 0, 0, 0, 0, 0, 0, 0, 0],
        [CLS, SEP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [CLS, 40, AND, 41, 42, 43, 44, 45, 46, 47, 48, SEP],
    ],
    np.int32,
)


def phrases_of(caption: np.ndarray) -> list[list[int]]:
    """Split a caption in plain Python."""
    words = [int(token) for token in caption if token not in (0, CLS, SEP)]
    runs: list[list[int]] = [[]]
    for word in words:
        if word in (COMMA, AND):
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def test_every_phrase_is_drawn_equally_often():
    draws = 3000
    draw = jax.jit(jax.vmap(lambda key: draw_phrases(key, CAPTIONS, (COMMA, AND), 0)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), draws)))
    for row, caption in enumerate(CAPTIONS):
        phrases = phrases_of(caption)
        expected = [[CLS, *phrase, SEP] for phrase in phrases] or [
            [int(token) for token in caption if token]
        ]
        found, counts = np.unique(drawn[:, row], axis=0, return_counts=True)
        texts = [[int(token) for token in tokens if token] for tokens in found]
        assert sorted(texts) == sorted(expected)
        # No token behind padding, and equal shares within four standard deviations.
        assert all((np.diff((tokens != 0).astype(int)) <= 0).all() for tokens in found)
        share = 1 / len(expected)
        assert abs(counts / draws - share).max() <= 4 * np.sqrt(share * (1 - share) / draws)


def test_without_separators_a_caption_is_one_phrase():
    np.testing.assert_array_equal(draw_phrases(jax.random.key(0), CAPTIONS, (), 0), CAPTIONS)


def test_the_pasted_window_is_that_of_the_phrase_and_the_phrase_is_joined():
    batch, grid = 6, 5
    image, scores, phrase_scores = (
        jax.random.normal(jax.random.key(seed), (batch, grid**2, *shape))
        for seed, shape in ((1, (3,)), (2, ()), (3, ()))
    )
    phrases = draw_phrases(jax.random.key(4), CAPTIONS, (COMMA, AND), 0)
    sample = Sample(image, jnp.asarray(CAPTIONS), scores, 0, phrases, phrase_scores)
    timix = build_mixer("timix", grid=grid, low=0.4, high=0.4)
    mixed = with_captions(timix, "phrases")(jax.random.key(5), sample)
    whole = with_captions(timix, "joined")(jax.random.key(5), sample)
    square = np.asarray(image).reshape(batch, grid, grid, 3)

    def windows(values: jax.Array) -> np.ndarray:
        values = np.asarray(values).reshape(batch, grid, grid)
        return np.array(
            [
                [row[y : y + 2, x : x + 2].sum() for y in range(4) for x in range(4)]
                for row in values
            ]
        )

    lowest = windows(scores).argmin(1)
    by_phrase, by_caption = windows(phrase_scores).argmax(1), windows(scores).argmax(1)
    assert (by_phrase != by_caption).any()
    for result, best in ((mixed, by_phrase), (whole, by_caption)):
        expected = square.copy()
        for k in range(batch):
            other = batch - 1 - k
            (y, x), (v, u) = divmod(lowest[k], 4), divmod(best[other], 4)
            expected[k, y : y + 2, x : x + 2] = square[other, v : v + 2, u : u + 2]
        np.testing.assert_array_equal(result.image, expected.reshape(batch, grid**2, 3))
    # Caption 4 is empty, so that its row shows the phrase of row 1 only.
    assert [int(t) for t in mixed.tokens[4] if t] == [CLS, 20, 21, SEP]
    joined = [int(t) for t in mixed.tokens[1] if t]
    assert joined == [CLS, 20, 21, SEP]  # row 4 gives no words
    joined = [int(t) for t in mixed.tokens[2] if t]
    assert joined == [CLS, AND, 30, COMMA, AND, 31, *[int(t) for t in phrases[3] if t][1:]]
    assert [int(t) for t in mixed.tokens[5] if t][:2] == [CLS, 40]
    assert {10, 12, 13} & {int(t) for t in mixed.tokens[5]}


def test_phrases_must_be_given():
    mixer = with_captions(build_mixer("timix", grid=5), "phrases")
    sample = Sample(jnp.zeros((2, 25, 3)), jnp.asarray(CAPTIONS[:2]), jnp.zeros((2, 25)))
    with pytest.raises(UserError, match=r"Sample\.phrases"):
        mixer(jax.random.key(0), sample)
    with pytest.raises(UserError, match="'own', 'joined' or 'phrases'"):
        with_captions(build_mixer("timix", grid=5), "phrase")
