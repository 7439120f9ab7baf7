"""Stacked layers: made once, and refused if they are those of another stack."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.errors import ScopeParamShapeError

from timix_jax.models.axes import axes_of, unbox
from timix_jax.models.connected_stack import BlockList
from timix_jax.models.cross_block import CrossStack
from timix_jax.models.stacked import stacked_layers
from timix_jax.models.transformer import Stack

X = jnp.ones((1, 2, 8))


def test_the_initialiser_runs_at_initialisation_alone():
    calls = []

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x):
            def one(key):
                calls.append(key)
                return {"w": jax.random.normal(key, (8,))}

            return x + stacked_layers(self, one, 3)["w"].sum(axis=0)

    boxed = Sum().init(jax.random.key(0), X)
    assert len(calls) == 1
    assert axes_of(boxed)["params"]["layers"]["w"].stacked
    params = unbox(boxed)
    assert params["params"]["layers"]["w"].shape == (3, 8)
    assert (params["params"]["layers"]["w"][0] != params["params"]["layers"]["w"][1]).any()
    Sum().apply(params, X)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("stack", "apply"),
    [
        pytest.param(
            lambda depth: Stack(depth, 2, 16), lambda m, p: m.apply(p, X), marks=pytest.mark.slow
        ),
        (
            lambda depth: CrossStack(depth, 8, 2, 16, 8),
            lambda m, p: m.apply(p, X, method="memory"),
        ),
        (lambda depth: BlockList(depth, 8, 2, 16), lambda m, p: m.apply(p, 0, X, X[..., 0] > 0)),
    ],
    ids=["self", "cross", "list"],
)
def test_another_number_of_layers_or_another_width_is_refused(stack, apply):
    module = stack(2)
    method = {"method": "initialise"} if isinstance(module, CrossStack) else {}
    arguments = () if method else (X,) if isinstance(module, Stack) else (0, X, X[..., 0] > 0)
    params = unbox(module.init(jax.random.key(0), *arguments, **method))
    apply(module, params)
    with pytest.raises(ScopeParamShapeError, match=r"\(2, .*\(3, |\(3, .*\(2, "):
        apply(stack(3), params)
    narrow = jax.tree.map(lambda p: p[..., :-1], params)
    with pytest.raises(ScopeParamShapeError):
        apply(module, narrow)
