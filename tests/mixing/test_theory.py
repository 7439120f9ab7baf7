"""Mutual information and the mixed loss, on patch models whose information is known (docs/method.md §7).

All bounds are on the loss of the image → text direction, where the other texts of the batch are
independent negatives, estimated over many batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from target_matrices import hard

from timix_jax.mixing import Sample
from timix_jax.mixing.partners import flip
from timix_jax.mixing.random_window import RandomWindow
from timix_jax.mixing.timix import TiMix
from timix_jax.mixing.windows import paste_windows, window_mask

GRID, SIDE = 4, 2
N = GRID * GRID
LAM = 1 - SIDE**2 / N
BATCH, BATCHES = 64, 200
RHO = 0.5  # correlation of a patch with its own component of the text


def information(patches):
    """Return the mutual information in nats of `patches` Gaussian pairs with correlation RHO."""
    return -patches / 2 * np.log(1 - RHO**2)


def bound(logits, lam):
    """Return log(N−1) − L_mix: the mean over batches and its standard error."""
    target, _ = hard(jnp.full(BATCH, lam), flip(BATCH))
    losses = -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1).mean(axis=-1)
    values = np.log(BATCH - 1) - np.asarray(losses, np.float64)
    return values.mean(), values.std() / np.sqrt(len(values))


def gaussian_pairs(key):
    """Return texts and images (batch, N), with one text component per patch."""
    text_key, noise_key = jax.random.split(key)
    texts = jax.random.normal(text_key, (BATCH, N))
    noise = jax.random.normal(noise_key, (BATCH, N))
    return texts, RHO * texts + np.sqrt(1 - RHO**2) * noise


def log_ratio(patch, component):
    """Return log p(patch | component) / p(patch), elementwise."""
    variance = 1 - RHO**2
    return -0.5 * jnp.log(variance) - (patch - RHO * component) ** 2 / (2 * variance) + patch**2 / 2


def fixed_window_logits(key, critic):
    """Return similarities of mixed images and texts, for windows at fixed places (text-independent)."""
    texts, images = gaussian_pairs(key)
    low = jnp.broadcast_to(jnp.array([0, 1], jnp.int32), (BATCH, 2))
    high = jnp.broadcast_to(jnp.array([2, 2], jnp.int32), (BATCH, 2))
    mixed = paste_windows(images[..., None], images[::-1][..., None], low, high, SIDE, GRID)[..., 0]
    # Moved the same way: what the pasted patches would say if the text were the partner's.
    moved = paste_windows(texts[..., None], texts[..., None], low, high, SIDE, GRID)[..., 0]
    inside = window_mask(low, SIDE, GRID)[0]
    own = jnp.where(inside, 0, log_ratio(mixed[:, None], texts[None])).sum(axis=-1)
    other = jnp.where(inside, log_ratio(mixed[:, None], moved[None]), 0).sum(axis=-1)
    return {
        "mixture": jnp.logaddexp(jnp.log(LAM) + own, jnp.log(1 - LAM) + other),
        "sum": own + other,
        "own only": own,
        "overconfident": 3 * (own + other),
        "plain product": mixed @ texts.T,
        "noise": jax.random.normal(key, (BATCH, BATCH)),
    }[critic]


@pytest.mark.parametrize(
    "critic", ["mixture", "sum", "own only", "overconfident", "plain product", "noise"]
)
def test_t2_no_critic_passes_the_weighted_information(critic):
    kept, pasted = information(N - SIDE**2), information(SIDE**2)
    truth = LAM * kept + (1 - LAM) * pasted
    keys = jax.random.split(jax.random.key(0), BATCHES)
    logits = jax.lax.map(jax.jit(lambda key: fixed_window_logits(key, critic)), keys)
    value, error = bound(logits, LAM)
    assert error < 0.05
    assert value <= truth + 3 * error
    if critic == "mixture":
        assert value > 0.5 * truth  # not an empty statement
    if critic == "noise":
        assert value < 0


@pytest.mark.parametrize("aware", [False, True])
def test_t3_gaussian(aware):
    """I(X; T) ≥ log(N−1) − L_mix, for text-aware windows with a slack of log (g−r+1)²."""
    mixer = TiMix(GRID, 0.5, 0.5) if aware else RandomWindow(GRID, 0.5, 0.5)

    def logits_of(key):
        texts, images = gaussian_pairs(key)
        relevance = log_ratio(images, texts)
        mixed = mixer(
            jax.random.fold_in(key, 1), Sample(images[..., None], scores=relevance)
        ).image[..., 0]
        return log_ratio(mixed[:, None], texts[None]).sum(axis=-1)

    keys = jax.random.split(jax.random.key(1), BATCHES)
    value, error = bound(jax.lax.map(jax.jit(logits_of), keys), LAM)
    slack = np.log((GRID - SIDE + 1) ** 2) if aware else 0.0
    assert value <= information(N) + slack + 3 * error
    if aware:  # the kept and pasted patches are the telling ones
        assert value > 0.3


def leaking_logits(key, mixer):
    """Images that know nothing of their texts; texts that say where the windows should be.

    A text is a pair of disjoint windows (lowest, highest), an image one random colour with the
    place of each patch written on it, so that a critic sees which window was pasted, and whence.
    """
    pairs = np.array(
        [
            [p, q]
            for p in np.ndindex(GRID - SIDE + 1, GRID - SIDE + 1)
            for q in np.ndindex(GRID - SIDE + 1, GRID - SIDE + 1)
            if max(abs(p[0] - q[0]), abs(p[1] - q[1])) >= SIDE
        ],
        np.int32,
    )
    text_key, colour_key, mix_key = jax.random.split(key, 3)
    texts = jnp.asarray(pairs)[jax.random.randint(text_key, (BATCH,), 0, len(pairs))]
    relevance = window_mask(texts[:, 1], SIDE, GRID).astype(jnp.float32) - window_mask(
        texts[:, 0], SIDE, GRID
    )
    colour = jnp.broadcast_to(jax.random.normal(colour_key, (BATCH, 1)), (BATCH, N))
    place = jnp.broadcast_to(jnp.arange(N, dtype=jnp.float32), (BATCH, N))
    mixed = mixer(mix_key, Sample(jnp.stack([colour, place], axis=-1), scores=relevance)).image
    pasted = mixed[..., 0] != jnp.median(mixed[..., 0], axis=1, keepdims=True)
    first = jnp.argmax(pasted, axis=1)
    source = jnp.take_along_axis(mixed[..., 1], first[:, None], axis=1)[:, 0].astype(jnp.int32)
    low, high = (texts[:, i, 0] * GRID + texts[:, i, 1] for i in (0, 1))
    own, other = first[:, None] == low[None], source[:, None] == high[None]
    return jnp.log(LAM * own + (1 - LAM) * other + 0.01)


@pytest.mark.parametrize("aware", [False, True])
def test_t3_slack_is_real_and_bounded(aware):
    """With I(X; T) = 0 only text-aware windows let the loss fall below log(N−1)."""
    mixer = TiMix(GRID, 0.5, 0.5) if aware else RandomWindow(GRID, 0.5, 0.5)
    keys = jax.random.split(jax.random.key(2), BATCHES)
    step = jax.jit(lambda key: leaking_logits(key, mixer))
    value, error = bound(jax.lax.map(step, keys), LAM)
    if aware:
        assert 0.5 < value <= np.log((GRID - SIDE + 1) ** 2) + 3 * error
    else:
        assert value <= 3 * error
