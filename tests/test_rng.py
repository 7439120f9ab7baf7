"""Streams depend only on the seed, the name and the step."""

import jax
import numpy as np

from timix_jax.rng import stream


def draw(seed, name, step):
    return np.asarray(jax.random.bits(stream(jax.random.key(seed), name, step), (4,)))


def test_streams_differ_by_seed_name_and_step():
    drawn = {
        draw(seed, name, step).tobytes()
        for seed in (0, 1)
        for name in ("mixing", "window", "dropout", "")
        for step in range(5)
    }
    assert len(drawn) == 2 * 4 * 5


def test_traced_step_draws_the_same():
    traced = jax.jit(lambda key, step: jax.random.bits(stream(key, "window", step), (4,)))
    for step in (0, 7, 2**31 - 1):
        np.testing.assert_array_equal(traced(jax.random.key(3), step), draw(3, "window", step))


def test_streams_are_not_shifted_copies_of_each_other():
    # A chain of splits would give stream k at step s + 1 the numbers of stream k + 1 at step s.
    by_step = [draw(0, "a", step) for step in range(4)]
    by_name = [draw(0, name, 0) for name in "abcd"]
    assert not any((x == y).all() for x in by_step[1:] for y in by_name[1:])


def test_the_name_is_hashed_the_same_in_every_process():
    # CRC-32 of "123456789" is the checksum's published check value; Python's hash() is salted.
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), np.uint32(0xCBF43926)), 2)
    actual = stream(jax.random.key(5), "123456789", 2)
    np.testing.assert_array_equal(jax.random.key_data(actual), jax.random.key_data(expected))
