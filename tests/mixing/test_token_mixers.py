"""TransMix, TokenMix, PatchMix, packing and text-aware patch dropout, against published numbers and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import label

from timix_jax.errors import UserError
from timix_jax.mixing import (
    MIXERS,
    Mixed,
    Packing,
    PatchMix,
    RandomWindow,
    RelevantPatches,
    Sample,
    TiMix,
    TokenMix,
    TransMix,
    build_mixer,
    with_captions,
)
from timix_jax.mixing.fraction import keep_clean
from timix_jax.mixing.partners import flip
from timix_jax.mixing.tokenmix import block_mask
from timix_jax.objectives.pairs.shares import Shares

GRID, N = 4, 16
KEY = jax.random.key(3)


def numbered(batch, patches=N):
    """Return patches (B, N, 1) whose value is 100·row + position."""
    return jnp.asarray(np.arange(batch)[:, None] * 100.0 + np.arange(patches))[..., None]


def draw_scores(batch, patches=N):
    return jax.random.normal(jax.random.key(1), (batch, patches))


def softmax(rows):
    exponential = np.exp(np.float64(rows))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def shares_of(mixer, mixed):
    return np.asarray(Shares.of(mixed, mixer.partners).matrix())


def test_transmix_published_number():
    """Of 2 x 2 tokens with attention .1, .2, .3, .4 the box covers the last: w = ½·¼ + ½·.4 = .325."""
    box = jnp.asarray([[0.0, 0, 0, 1], [0, 0, 0, 0]])
    mixed = Mixed(None, jnp.asarray([1, 1]), jnp.asarray([0.75, 1.0]), pasted_patches=box)
    attention = jnp.asarray([[0.1, 0.2, 0.3, 0.4]] * 2)
    for scale in (1, 0.5):  # [CLS] attends to itself too
        for share, weight in ((0.5, 0.325), (1.0, 0.4), (0.0, 0.25)):
            got = TransMix(grid=2, attention_share=share).relabel(mixed, scale * attention)
            np.testing.assert_allclose(1 - got.lam, [weight, 0], rtol=1e-6)
    unseen = TransMix(grid=2).relabel(mixed, jnp.zeros((2, 4)))
    np.testing.assert_allclose(unseen.lam, [0.75, 1])


def test_transmix_pastes_the_box_of_cutmix():
    image = jax.random.normal(KEY, (3, 20, 20, 3))
    for seed in range(4):
        key = jax.random.key(seed)
        plain = build_mixer("cutmix", grid=5)(key, Sample(image))
        mixed = build_mixer("transmix", grid=5)(key, Sample(image))
        np.testing.assert_array_equal(mixed.image, plain.image)
        pasted = np.asarray(mixed.image == image[::-1]).all(axis=3)[0]
        covered = pasted.reshape(5, 4, 5, 4).mean(axis=(1, 3)).reshape(-1)  # parts of patches count
        np.testing.assert_allclose(mixed.pasted_patches, [covered, 0 * covered, covered], rtol=1e-6)
        np.testing.assert_allclose(mixed.pasted, 1 - plain.lam)
    same = build_mixer("transmix", grid=5).relabel(mixed, jnp.ones((3, 25)))
    np.testing.assert_allclose(same.lam, plain.lam, rtol=1e-6)  # even attention: the area


def test_tokenmix_published_numbers():
    """Relevance .4 .3 .2 .1 and .1 .2 .3 .4, the last token pasted: weights .9 and .4."""
    mass = jnp.asarray([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    mixer = TokenMix(grid=2)
    mask = jnp.asarray([False, False, False, True])
    mixed = mixer.mix(Sample(numbered(2, 4), scores=jnp.log(mass)), flip(2), mask)
    np.testing.assert_allclose(mixed.lam, [0.9, 0.6], rtol=1e-6)
    np.testing.assert_allclose(mixed.partner_weight, [0.4, 0.1], rtol=1e-6)
    np.testing.assert_allclose(mixed.pasted, [0.25, 0.25])
    np.testing.assert_array_equal(mixed.image[..., 0], [[0, 1, 2, 103], [100, 101, 102, 3]])


@pytest.mark.parametrize("partner", ["flip", "derangement"])
def test_tokenmix_is_what_it_says(partner):
    mixer, scores = TokenMix(grid=GRID, partner=partner), draw_scores(5)
    mixed = jax.jit(mixer)(KEY, Sample(numbered(5), scores=scores))
    theirs, mass = np.asarray(mixed.image[..., 0]) // 100, softmax(scores)
    for k, p in enumerate(np.asarray(mixed.partner)):
        own = theirs[k] == k
        np.testing.assert_array_equal(theirs[k][~own], p)
        np.testing.assert_array_equal(mixed.image[k, :, 0] % 100, np.arange(N))
        assert mixed.lam[k] == pytest.approx(mass[k][own].sum(), rel=1e-5)
        assert mixed.partner_weight[k] == pytest.approx(mass[p][~own].sum() if p != k else 0)
        assert mixed.pasted[k] == pytest.approx((~own).mean())
    assert (partner == "flip") == bool((theirs[2] == 2).all())


def test_block_masks_have_the_drawn_size_and_few_parts():
    masks = jax.jit(lambda keys, count: jax.vmap(lambda k: block_mask(k, count, 14, 1 / 14))(keys))
    keys = jax.random.split(KEY, 200)
    for count in (1, 40, 98, 195):
        drawn = np.asarray(masks(keys, count))
        np.testing.assert_array_equal(drawn.sum(axis=1), count)
        assert count != 98 or len(np.unique(drawn, axis=0)) == 200
    drawn = np.asarray(masks(keys, 98)).reshape(-1, 14, 14)
    parts = np.array([label(mask)[1] for mask in drawn])
    assert 1 < parts.mean() < 4  # 98 single patches would be some 20 parts
    covered = drawn.mean(axis=0)
    assert covered.min() > 0.02  # every place at times
    assert covered.max() < 0.9


def test_patchmix_targets():
    """With m = 3: a third for each caption, and (1, 2, 3, 2, 1)/9 between mixtures."""
    sample = Sample(numbered(7))
    mixer = PatchMix(images=3)
    single = shares_of(mixer, mixer(KEY, sample))
    np.testing.assert_allclose(single[2], [0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(single[6], [1 / 3, 1 / 3, 0, 0, 0, 0, 1 / 3], rtol=1e-6)
    mixer = PatchMix(images=3, against="mixtures")
    both = shares_of(mixer, mixer(KEY, sample))
    np.testing.assert_allclose(both[3], np.array([0, 1, 2, 3, 2, 1, 0]) / 9, rtol=1e-6)
    np.testing.assert_allclose(both, single @ single.T, atol=1e-6)  # sources that two rows share


@pytest.mark.parametrize(("images", "batch"), [(2, 2), (3, 3), (3, 4), (5, 8)])
def test_patchmix_interleaves_segments(images, batch):
    mixer = PatchMix(images, against="mixtures")
    mixed = jax.jit(mixer)(KEY, Sample(numbered(batch)))
    source, place = np.divmod(np.asarray(mixed.image[..., 0]), 100)
    np.testing.assert_array_equal(place, np.broadcast_to(np.arange(N), place.shape))
    for k in range(batch):
        counts = np.bincount(source[k].astype(int), minlength=batch)
        used = counts[[(k + j) % batch for j in range(images)]]
        assert used.sum() == N
        assert np.ptp(used) <= 1
        assert mixed.pasted[k] == pytest.approx(1 - counts[k] / N)
    A = np.zeros((batch, batch))
    for k in range(batch):
        A[k, (k + np.arange(images)) % batch] = 1 / images
    np.testing.assert_allclose(shares_of(mixer, mixed), A @ A.T, atol=1e-6)
    text = np.random.default_rng(0).normal(size=(batch, 4))
    image, text_mixed = mixer.mix_features(mixed, jnp.ones((batch, 4)), jnp.asarray(text))
    mean = A @ text
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(text_mixed, mean, atol=1e-6)
    np.testing.assert_array_equal(image, np.ones((batch, 4)))


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("partner", ["flip", "derangement"])
def test_packing_reads_the_most_relevant_patches_of_two_images(share, partner):
    mixer, scores = Packing(GRID, share=share, partner=partner), draw_scores(5)
    mixed = jax.jit(mixer)(KEY, Sample(numbered(5), scores=scores))
    k_each = int(share * N / 2)
    best = np.argsort(-np.asarray(scores), axis=1)
    assert mixed.kept.shape == (5, 2 * k_each)
    read = np.take_along_axis(np.asarray(mixed.image[..., 0]), np.asarray(mixed.kept), axis=1)
    for k, p in enumerate(np.asarray(mixed.partner)):
        if p == k:
            want = 100 * k + best[k, : 2 * k_each]
        else:
            want = np.r_[100 * k + best[k, :k_each], 100 * p + best[p, :k_each]]
        np.testing.assert_array_equal(read[k], want)
        np.testing.assert_array_equal(mixed.kept[k] % N, want % 100)  # each at its own position
    np.testing.assert_array_equal(mixed.lam, np.where(mixed.partner == np.arange(5), 1, 0.5))

    part = keep_clean(mixed, Sample(numbered(5), scores=scores), jnp.arange(5) == 0)
    read = np.take_along_axis(np.asarray(part.image[..., 0]), np.asarray(part.kept), axis=1)
    np.testing.assert_array_equal(part.kept[0], mixed.kept[0])
    for k in range(1, 5):  # a clean row shows itself only, and all of it if it fits
        np.testing.assert_array_equal(read[k], 100 * k + best[k, : 2 * k_each])
    np.testing.assert_array_equal(part.lam[1:], np.ones(4))
    np.testing.assert_array_equal(part.partner_weight[1:], np.zeros(4))
    np.testing.assert_array_equal(part.pasted, [0.5, 0, 0, 0, 0])


def test_packing_weights():
    scores = draw_scores(4)
    sample = Sample(numbered(4), jnp.ones((4, 6), jnp.int32), scores)
    kept = np.sort(softmax(scores), axis=1)[:, -4:].sum(axis=1)

    def weights(by):
        mixed = Packing(GRID, share=0.5, lambda_by=by)(KEY, sample)
        return np.stack([mixed.lam, mixed.partner_weight])

    np.testing.assert_array_equal(weights("equal"), np.full((2, 4), 0.5))
    np.testing.assert_array_equal(weights("full"), np.ones((2, 4)))
    np.testing.assert_allclose(weights("visible"), [kept, kept[::-1]], rtol=1e-5)
    share = kept / (kept + kept[::-1])
    np.testing.assert_allclose(weights("mass"), [share, 1 - share], rtol=1e-5)
    joined = with_captions(Packing(GRID), "joined")(KEY, sample)
    np.testing.assert_array_equal(joined.lam, np.ones(4))
    np.testing.assert_array_equal(joined.apart, flip(4))


def test_relevant_patches():
    scores, mixer = draw_scores(3, 25), RelevantPatches(5, rate=0.33)
    assert mixer.count == 17
    sample = Sample(numbered(3, 25), scores=scores)
    mixed = jax.jit(mixer)(KEY, sample)
    best = np.argsort(-np.asarray(scores), axis=1)[:, :17]
    np.testing.assert_array_equal(mixed.kept, best)
    np.testing.assert_array_equal(shares_of(mixer, mixed), np.eye(3))
    part = keep_clean(mixed, sample, jnp.asarray([False, True, True]))
    np.testing.assert_array_equal(part.kept[1:], best[1:])
    assert len(set(part.kept[0].tolist())) == 17  # at random
    assert set(part.kept[0].tolist()) != set(best[0].tolist())


@pytest.mark.parametrize("kind", [TiMix, RandomWindow])
@pytest.mark.parametrize("by", ["mass", "visible"])
def test_weights_by_what_a_window_leaves_visible(kind, by):
    scores = draw_scores(5)
    mixer = kind(GRID, lambda_by=by)
    area = kind(GRID)(KEY, Sample(numbered(5), scores=scores))
    mixed = jax.jit(mixer)(KEY, Sample(numbered(5), scores=scores))
    np.testing.assert_array_equal(mixed.image, area.image)
    np.testing.assert_allclose(mixed.pasted, 1 - area.lam, rtol=1e-6)
    row, place = np.divmod(np.asarray(mixed.image[..., 0]).astype(int), 100)
    mass = softmax(scores)
    for k in (0, 1, 3, 4):
        own = row[k] == k
        kept, pasted = mass[k][own].sum(), mass[4 - k][place[k][~own]].sum()
        if by == "visible":
            assert mixed.lam[k] == pytest.approx(kept, rel=1e-5)
            assert mixed.partner_weight[k] == pytest.approx(pasted, rel=1e-5)
        else:
            assert mixed.lam[k] == pytest.approx(kept / (kept + pasted), rel=1e-5)
            assert mixed.partner_weight is None
    np.testing.assert_allclose(shares_of(mixer, mixed)[2], np.eye(5)[2])


@pytest.mark.parametrize("kind", [TiMix, RandomWindow])
def test_the_own_caption_alone_counts(kind):
    mixer = kind(GRID, lambda_by="own")
    sample = Sample(numbered(4), scores=draw_scores(4))
    mixed, area = mixer(KEY, sample), kind(GRID)(KEY, sample)
    np.testing.assert_array_equal(mixed.image, area.image)
    np.testing.assert_allclose(mixed.pasted, 1 - area.lam, rtol=1e-6)
    assert (mixed.pasted > 0).all()
    np.testing.assert_array_equal(shares_of(mixer, mixed), np.eye(4))
    assert not RandomWindow(GRID, lambda_by="own").needs_scores


def test_an_oracle_window_shows_both_captions_whole():
    """Half an image of relevance 0 is overwritten by all that matters in the partner: ½ and ½, or 1 and 1."""
    grid = np.zeros((2, 4, 4))
    grid[:, :2, :2] = 30.0
    sample = Sample(numbered(2), scores=jnp.asarray(grid.reshape(2, N)))
    for by, weights in (("area", (0.75, 0.25)), ("mass", (0.5, 0.5)), ("visible", (1, 1))):
        mixer = TiMix(GRID, low=0.5, high=0.5, lambda_by=by)
        A = shares_of(mixer, mixer(KEY, sample))
        np.testing.assert_allclose(A[0], weights, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transmix", {"attention_share": 2}, "attention_share=2"),
        ("tokenmix", {"block": 0}, "block=0"),
        ("tokenmix", {"alpha": -1}, "alpha=-1"),
        ("patchmix", {"images": 1}, "images=1"),
        ("patchmix", {"against": "texts"}, "against='texts'"),
        ("packing", {"share": 0.1}, "leaves two patches"),
        ("packing", {"lambda_by": "area"}, "lambda_by='area' is unknown"),
        ("relevant_patches", {"rate": 1.0}, "rate=1.0"),
        ("random_window", {"lambda_by": "seen"}, "lambda_by='seen' is unknown"),
    ],
)
def test_settings_out_of_range(name, options, message):
    with pytest.raises(UserError, match=message):
        build_mixer(name, grid=GRID, **options)


def test_inputs_that_are_missing_or_too_few():
    with pytest.raises(UserError, match="more than the 2 images"):
        PatchMix(images=3)(KEY, Sample(numbered(2)))
    for name in ("tokenmix", "packing", "relevant_patches"):
        with pytest.raises(UserError, match="needs patch scores"):
            build_mixer(name, grid=GRID)(KEY, Sample(numbered(2)))
    with pytest.raises(UserError, match="needs patch scores"):
        RandomWindow(GRID, lambda_by="mass")(KEY, Sample(numbered(2)))
    with pytest.raises(UserError, match=r"use mix\.mixer='cutmix'"):
        with_captions(build_mixer("transmix", grid=GRID), "joined")
    assert MIXERS["smmix"](GRID).low == 0.25
