"""Muon on the blocks' matrices: each is orthogonalised on its own; everything else gets Adam."""

import jax
import jax.numpy as jnp
import named_axes
import numpy as np
import optax
import pytest

from timix_jax.errors import UserError
from timix_jax.optim.muon import scale_by_muon_and_adam
from timix_jax.optim.optimizer import make_optimizer

SHAPES = {
    "blocks": {
        "layers": {
            "attention": {
                "qkv": {"kernel": (2, 8, 3, 2, 4), "bias": (2, 3, 2, 4)},
                "out": {"kernel": (2, 2, 4, 8)},
            },
            "mlp": {"up": {"kernel": (2, 8, 16)}},
        }
    },
    "word_embed": {"embedding": (10, 8)},
}


def random_tree(seed):
    leaves, structure = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        structure, [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in leaves]
    )


@pytest.fixture(scope="module")
def first_update():
    params, grads = random_tree(0), random_tree(1)
    transform = scale_by_muon_and_adam(
        named_axes.declared_by_name(params), b1=0.9, b2=0.99, eps=1e-8
    )
    updates, _ = jax.jit(transform.update)(grads, transform.init(params), params)
    return grads, updates


def matrices(tree):
    """Yield every matrix of the blocks; layers, query, key and value are separate matrices."""
    layers = tree["blocks"]["layers"]
    qkv = np.asarray(layers["attention"]["qkv"]["kernel"])
    for layer in range(2):
        for part in range(3):
            yield qkv[layer, :, part].reshape(8, 8)
        yield np.asarray(layers["attention"]["out"]["kernel"])[layer].reshape(8, 8)
        yield np.asarray(layers["mlp"]["up"]["kernel"])[layer]


def test_each_matrix_is_orthogonalised_along_its_own_singular_vectors(first_update):
    grads, updates = first_update
    for gradient, update in zip(matrices(grads), matrices(updates), strict=True):
        u, s, vt = np.linalg.svd(gradient, full_matrices=False)
        inside = u.T @ update @ vt.T / (0.2 * np.sqrt(max(gradient.shape)))
        # Newton–Schulz brings singular values near 1; the smallest may stay below.
        np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=2e-2)
        large = s > 0.2 * s[0]
        assert (np.diag(inside)[large] > 0.6).all()
        assert (np.diag(inside) < 1.3).all()


def test_the_rest_gets_adams_update(first_update):
    grads, updates = first_update
    adam = optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-8)
    expected, _ = adam.update(grads, adam.init(grads))
    pick = lambda tree: (
        tree["word_embed"]["embedding"],
        tree["blocks"]["layers"]["attention"]["qkv"]["bias"],
    )
    for got, want in zip(pick(updates), pick(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="'sgd' is unknown; use 'adamw' or 'muon'"):
        make_optimizer(
            random_tree(0),
            named_axes.declared_by_name(random_tree(0)),
            schedule=lambda step: jnp.float32(1e-3),
            name="sgd",
            b1=0.9,
            b2=0.999,
            weight_decay=0.0,
            clip_norm=None,
            lr_scales=(),
        )
