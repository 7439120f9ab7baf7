"""Mixers, their registry, and mixing of a part of the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing import MIXERS, CutMix, Mixup, RandomWindow, Sample, TiMix, build_mixer
from timix_jax.mixing.base import Mixed
from timix_jax.mixing.fraction import keep_clean, select_rows
from timix_jax.mixing.partners import flip
from timix_jax.mixing.relevance import share_of_visible, visible_mass

GRID, N = 6, 36
KEY = jax.random.key(11)


def numbered(batch, dtype=jnp.float32):
    """Return tokens whose values identify image and position."""
    rows = jnp.arange(batch)[:, None, None] * 1000 + jnp.arange(N)[None, :, None]
    return jnp.broadcast_to(rows, (batch, N, 2)).astype(dtype)


def inputs_of(mixer, batch):
    return (
        numbered(batch)
        if mixer.space == "patches"
        else jnp.arange(batch * 24 * 24 * 3, dtype=jnp.float32).reshape(batch, 24, 24, 3)
    )


PAIRED = ("timix", "random_window", "cutmix", "mixup", "transmix")


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(("partner", "batch"), [("flip", 5), ("derangement", 4)])
def test_each_mixer(name, partner, batch):
    mixer = build_mixer(name, grid=GRID, partner=partner)
    inputs = inputs_of(mixer, batch)
    scores = jax.random.normal(jax.random.key(1), (batch, N)) if mixer.needs_scores else None
    mix = jax.jit(mixer)
    mixed = mix(KEY, Sample(inputs, scores=scores))
    assert mixed.image.shape == inputs.shape
    assert mixed.image.dtype == inputs.dtype
    assert mixed.lam.shape == (batch,)
    assert mixed.lam.dtype == jnp.float32
    assert mixed.partner.dtype == jnp.int32
    itself = np.asarray(mixed.partner) == np.arange(batch)
    assert itself.sum() == (1 if partner == "flip" and batch == 5 else 0)
    np.testing.assert_array_equal(mixed.lam[itself], 1)
    np.testing.assert_array_equal(mixed.image[itself], inputs[itself])
    assert (mixed.lam[~itself] < 1).all()
    if name != "mixup":  # λ is the share of a row's own content
        own_share = np.asarray(mixed.image == inputs).reshape(batch, -1).mean(axis=1)
        np.testing.assert_allclose(own_share, mixed.lam, rtol=1e-5)
    np.testing.assert_array_equal(mix(KEY, Sample(inputs, scores=scores)).image, mixed.image)
    assert (mix(jax.random.key(5), Sample(inputs, scores=scores)).lam != mixed.lam).any()


@pytest.mark.parametrize("mixer", [TiMix(GRID), RandomWindow(GRID)])
def test_windows_describe_the_paste(mixer):
    scores = jax.random.normal(jax.random.key(1), (4, N))
    mixed = mixer(KEY, Sample(numbered(4), scores=scores))
    side = int(mixed.window)
    for k in range(4):
        p = int(mixed.partner[k])
        square = np.asarray(mixed.image[k, :, 0]).reshape(GRID, GRID)
        row, column = (int(value) for value in mixed.low[k])
        from_row, from_column = (int(value) for value in mixed.high[p])
        pasted = square[row : row + side, column : column + side]
        theirs = p * 1000 + np.arange(N).reshape(GRID, GRID)
        np.testing.assert_array_equal(
            pasted, theirs[from_row : from_row + side, from_column : from_column + side]
        )
    assert mixed.lam[0] == pytest.approx(1 - side**2 / N)


def test_random_windows_reach_every_place():
    mixer = RandomWindow(GRID, low=0.5, high=0.5)
    mixed = mixer(KEY, Sample(jnp.zeros((2000, N, 1))))
    for first in (mixed.low, mixed.high):
        counts = np.bincount(np.asarray(first[:, 0] * 4 + first[:, 1]), minlength=16)
        assert len(counts) == 16
        np.testing.assert_allclose(counts / 2000, 1 / 16, atol=0.025)
    assert (mixed.low != mixed.high).any()


def test_mass_lambda_against_a_loop_and_the_corners():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, N)).astype(np.float32)
    low, high = (rng.integers(0, 4, (4, 2)).astype(np.int32) for _ in range(2))
    partner = np.array([1, 2, 0, 3], np.int32)
    got = share_of_visible(*visible_mass(scores, low, high, partner, 3, GRID))
    mass = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    mass = mass.reshape(4, GRID, GRID)

    def inside(k, first):
        return mass[k][first[0] : first[0] + 3, first[1] : first[1] + 3].sum()

    for k in range(3):
        kept, pasted = 1 - inside(k, low[k]), inside(partner[k], high[partner[k]])
        assert got[k] == pytest.approx(kept / (kept + pasted), rel=1e-5)
    assert got[3] == 1
    flat = share_of_visible(*visible_mass(jnp.zeros((2, N)), low[:2], high[:2], flip(2), 3, GRID))
    np.testing.assert_allclose(flat, 0.75, rtol=1e-5)  # (N−9)/(N−9+9): equal mass gives the area
    extreme = share_of_visible(*visible_mass(1e4 * scores, low, high, partner, 3, GRID))
    assert ((extreme >= 0) & (extreme <= 1)).all()


def test_mixup_is_a_mean_of_whole_images():
    pixels = jax.random.normal(jax.random.key(1), (4, 20, 30, 3))
    mixed = Mixup()(KEY, Sample(pixels))
    lam = mixed.lam[0]
    assert 0 < lam < 1
    np.testing.assert_array_equal(mixed.lam, np.full(4, lam))
    np.testing.assert_allclose(
        mixed.image, lam * pixels + (1 - lam) * pixels[::-1], rtol=1e-5, atol=1e-6
    )


def test_cutmix_is_one_box_at_one_place():
    pixels = jax.random.normal(jax.random.key(0), (4, 20, 30, 3))
    mix = jax.jit(CutMix())
    for seed in range(5):
        mixed = mix(jax.random.key(seed), Sample(pixels))
        pasted = np.asarray((mixed.image == pixels[::-1]).all(axis=(0, 3)))
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            assert np.abs(np.diff(np.r_[0, line.astype(int), 0])).sum() in (0, 2)  # one interval


@pytest.mark.parametrize("mixer", [CutMix(alpha=1.0), Mixup(alpha=1.0)])
def test_beta_distribution(mixer):
    inputs = jnp.zeros((2, 30, 30, 1))
    keys = jax.random.split(jax.random.key(3), 500)
    lam = jax.jit(jax.vmap(lambda key: mixer(key, Sample(inputs)).lam[0]))(keys)
    assert lam.min() >= 0
    assert lam.max() <= 1
    if isinstance(mixer, Mixup):
        assert abs(float(lam.mean()) - 0.5) < 0.06
    else:
        assert lam.mean() > 0.5  # clipping at the edges only makes the box smaller


def test_bf16_tokens_stay_bf16():
    scores = jax.random.normal(jax.random.key(1), (4, N))
    for mixer in (TiMix(GRID), RandomWindow(GRID), Mixup()):
        mixed = mixer(KEY, Sample(numbered(4, jnp.bfloat16), scores=scores))
        assert mixed.image.dtype == jnp.bfloat16
        assert mixed.lam.dtype == jnp.float32


def test_registry_errors():
    assert build_mixer("none", grid=GRID) is None
    assert build_mixer("mixup", grid=GRID, alpha=0.4) == Mixup(alpha=0.4)
    assert build_mixer("timix", grid=GRID, lambda_by="mass") == TiMix(GRID, lambda_by="mass")
    for name, options, message in [
        ("timx", {}, "'timx' is unknown; use one of none, timix"),
        (
            "timix",
            {"hihg": 0.5},
            "no option 'hihg'; its options: partner, within_shard, low, high, lambda_by",
        ),
        ("none", {"low": 0.5}, "no option 'low'; its options: none"),
        ("timix", {"lambda_by": "pixels"}, "lambda_by='pixels'"),
        ("timix", {"partner": "roll"}, "'roll' is unknown"),
        ("random_window", {"low": 0.9}, "low=0.9, high=0.75"),
        ("mixup", {"alpha": 0}, "alpha=0"),
        ("cutmix", {"alpha": float("nan")}, "alpha=nan"),
    ]:
        with pytest.raises(UserError, match=message):
            build_mixer(name, grid=GRID, **options)
    with pytest.raises(UserError, match="needs patch scores"):
        TiMix(GRID)(KEY, Sample(numbered(4)))
    assert all(cls is None or dataclasses.is_dataclass(cls) for cls in MIXERS.values())


def test_select_rows():
    assert select_rows(8, 0.5).tolist() == [0, 2, 4, 6]
    assert select_rows(8, 1.0).tolist() == list(range(8))
    assert select_rows(8, 0.25).tolist() == [0, 4]
    assert select_rows(8, 0.01).tolist() == [0]
    assert select_rows(8, 0.0).tolist() == []
    assert select_rows(10, 0.3).tolist() == [0, 3, 6]
    with pytest.raises(UserError, match=r"mix.fraction=1.5"):
        select_rows(8, 1.5)


def test_keep_clean_puts_rows_back():
    inputs = numbered(4)
    sample = Sample(inputs, scores=jax.random.normal(jax.random.key(1), (4, N)))
    mixed = TiMix(GRID)(KEY, sample)
    selected = jnp.array([True, False, False, True])
    kept: Mixed = jax.jit(keep_clean)(mixed, sample, selected)
    np.testing.assert_array_equal(kept.image[1:3], inputs[1:3])
    np.testing.assert_array_equal(kept.image[::3], mixed.image[::3])
    assert kept.partner.tolist() == [3, 1, 2, 0]
    np.testing.assert_array_equal(kept.lam[1:3], 1)
    np.testing.assert_array_equal(kept.lam[::3], mixed.lam[::3])
