"""Joined captions: examples by hand, and what the wrapped mixer keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing import Sample, build_mixer, with_captions
from timix_jax.mixing.fraction import keep_clean
from timix_jax.mixing.joined import join_captions

CLS, SEP, PAD = 1, 2, 0


def caption(words, length=8, pad=PAD):
    tokens = [CLS, *words, SEP]
    return tokens + [pad] * (length - len(tokens))


@pytest.mark.parametrize(
    ("own", "other", "joined"),
    [
        ([10, 11], [20], [10, 11, 20]),
        ([10, 11, 12], [20, 21, 22], [10, 11, 12, 20, 21, 22]),
        ([10, 11, 12, 13], [20, 21, 22, 23], [10, 11, 12, 20, 21, 22]),  # both cut to half
        ([10, 11, 12, 13, 14, 15], [20], [10, 11, 12, 13, 14, 20]),  # a short one leaves room
        ([10], [20, 21, 22, 23, 24, 25], [10, 20, 21, 22, 23, 24]),
        ([], [20, 21], [20, 21]),
        ([10, 11], [], [10, 11]),
    ],
)
@pytest.mark.parametrize("pad", [PAD, 99])
def test_words_of_both_captions(own, other, joined, pad):
    got = join_captions(
        jnp.asarray([caption(own, pad=pad)]), jnp.asarray([caption(other, pad=pad)]), pad
    )
    assert got.tolist() == [caption(joined, pad=pad)]


def test_an_odd_number_of_words_that_fit_gives_the_own_caption_one_more():
    own, other = caption([10, 11, 12, 13], 7), caption([20, 21, 22, 23], 7)
    got = join_captions(jnp.asarray([own]), jnp.asarray([other]), PAD)
    assert got.tolist() == [caption([10, 11, 12, 20, 21], 7)]


def test_images_are_those_of_the_mixer():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray([caption([10 + k, 20 + k]) for k in range(5)])
    image, scores = jnp.asarray(rng.normal(size=(5, 16, 3))), jnp.asarray(rng.normal(size=(5, 16)))
    sample, key = Sample(image, tokens, scores), jax.random.key(3)
    inner = build_mixer("timix", grid=4)
    plain, joined = inner(key, sample), with_captions(inner, "joined")(key, sample)
    np.testing.assert_array_equal(joined.image, plain.image)
    np.testing.assert_array_equal(joined.partner, plain.partner)
    np.testing.assert_array_equal(joined.lam, np.ones(5))
    np.testing.assert_array_equal(joined.partner_weight, np.zeros(5))
    np.testing.assert_allclose(joined.pasted, 1 - plain.lam)
    assert joined.tokens[1].tolist() == caption([11, 21, 13, 23])
    assert joined.tokens[2].tolist() == tokens[2].tolist()  # the middle row is its own partner

    selected = jnp.asarray([True, False, False, False, False])
    part = keep_clean(joined, sample, selected)
    assert part.apart.tolist() == [4, 1, 2, 3, 4]
    np.testing.assert_array_equal(part.tokens[1:], tokens[1:])
    np.testing.assert_array_equal(part.pasted[1:], np.zeros(4))


def test_captions_are_joined_and_images_stay_whole():
    tokens = jnp.asarray([caption([10 + k]) for k in range(4)])
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 3)))
    mixer = with_captions(build_mixer("captions_alone", grid=4, partner="derangement"), "joined")
    mixed = mixer(jax.random.key(0), Sample(image, tokens))
    assert not mixer.needs_scores
    np.testing.assert_array_equal(mixed.image, image)
    np.testing.assert_array_equal(mixed.pasted, np.zeros(4))
    np.testing.assert_array_equal(mixed.lam, np.ones(4))
    for k, partner in enumerate(mixed.partner.tolist()):
        assert partner != k
        assert mixed.tokens[k].tolist() == caption([10 + k, 10 + partner])
    np.testing.assert_array_equal(mixed.apart, mixed.partner)


def test_refusals():
    mixer = build_mixer("random_window", grid=4)
    with pytest.raises(
        UserError, match=r"mix\.captions='both' is unknown; use 'own', 'joined' or 'phrases'"
    ):
        with_captions(mixer, "both")
    with pytest.raises(UserError, match="needs captions"):
        with_captions(mixer, "joined")(jax.random.key(0), Sample(jnp.zeros((4, 16, 2))))
    assert with_captions(mixer, "own") is mixer
    with pytest.raises(UserError, match=r"leaves nothing to mix\.mixer='captions_alone'"):
        with_captions(build_mixer("captions_alone", grid=4), "own")
