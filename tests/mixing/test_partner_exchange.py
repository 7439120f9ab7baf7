"""Collectives of the compiled mixers: devices exchange partners and nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.mixing import Sample, build_mixer
from timix_jax.mixing.fraction import select_rows, take_rows
from timix_jax.parallel.mesh import batch_sharding, make_mesh

GRID, WIDTH, BATCH = 4, 8, 64
COLLECTIVE = re.compile(
    r"= (\S+?)(?:\{\S*)? (all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter)"
)
COORDINATES = re.compile(r"s32\[\d+,2\]")


@pytest.fixture(scope="module")
def sharding():
    return batch_sharding(make_mesh(data=2, fsdp=4))


def collectives(function, sharding, *shapes):
    """Return (shape on a device, kind) of each collective, except those of the windows' positions."""
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=sharding) for s in shapes]
    text = jax.jit(function, out_shardings=sharding).lower(*arguments).compile().as_text()
    return [found for found in COLLECTIVE.findall(text) if not COORDINATES.match(found[0])]


def exchanged(name, sharding, **options):
    """Return the collectives of mixing and of its gradient with respect to the patches."""
    mixer = build_mixer(name, grid=GRID, shards=8, **options)

    def gradient(patches, scores):
        def total(patches):
            return jnp.sum(jnp.sin(mixer(jax.random.key(0), Sample(patches, scores=scores)).image))

        return jax.grad(total)(patches)

    return collectives(gradient, sharding, (BATCH, GRID**2, WIDTH), (BATCH, GRID**2))


def test_a_flip_of_the_batch_is_one_permutation_each_way(sharding):
    own_part = f"f32[{BATCH // 8},{GRID**2},{WIDTH}]"
    assert exchanged("timix", sharding) == [(own_part, "collective-permute")] * 2


@pytest.mark.parametrize(
    ("name", "partner"), [("timix", "flip"), ("timix", "derangement"), ("random_window", "flip")]
)
def test_within_shards_nothing_is_exchanged(sharding, name, partner):
    assert exchanged(name, sharding, within_shard=True, partner=partner) == []


def test_a_derangement_collects_the_batch(sharding):
    whole = f"f32[{BATCH},{GRID**2},{WIDTH}]"
    found = exchanged("timix", sharding, partner="derangement")
    assert found == [(whole, "all-gather"), (whole, "all-reduce")]


def test_evenly_spaced_rows_are_taken_where_they_are(sharding):
    rows = select_rows(BATCH, 0.5)
    assert collectives(lambda x: take_rows(x, rows), sharding, (BATCH, 3)) == []
    for fraction in (0.5, 0.3, 1.0):
        rows = select_rows(10, fraction)
        np.testing.assert_array_equal(take_rows(jnp.arange(10.0), rows), rows)


@pytest.mark.parametrize("partner", ["flip", "derangement"])
def test_within_shards_each_part_is_mixed_by_itself(partner):
    rng = np.random.default_rng(0)
    patches = jnp.float32(rng.normal(size=(12, GRID**2, WIDTH)))
    scores = jnp.float32(rng.normal(size=(12, GRID**2)))
    mixer = build_mixer("timix", grid=GRID, shards=3, within_shard=True, partner=partner)
    mixed = mixer(jax.random.key(1), Sample(patches, scores=scores))
    assert np.any(mixed.image != patches)
    whole_batch = build_mixer("timix", grid=GRID, partner="derangement")  # correct for any π
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        want = whole_batch.mix(
            patches[rows], scores[rows], mixed.partner[rows] - 4 * part, mixed.window
        )
        np.testing.assert_array_equal(mixed.image[rows], want.image)
        np.testing.assert_array_equal(mixed.lam[rows], want.lam)
