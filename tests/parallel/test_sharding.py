"""Shardings of a parameter tree and its optimiser state on eight fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import PartitionSpec

from timix_jax.errors import UserError
from timix_jax.parallel.axes import Axes
from timix_jax.parallel.mesh import make_mesh
from timix_jax.parallel.paths import path_names
from timix_jax.parallel.sharding import infer_shardings


@struct.dataclass
class State:
    """The fields of a train state that sharding rules cover."""

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: tuple


DECLARED = {"blocks/mlp/kernel": Axes(stacked=True), "blocks/mlp/bias": Axes(stacked=True)}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def create(key):
    params = {
        "blocks": {
            "mlp": {"kernel": jax.random.normal(key, (3, 16, 64)), "bias": jnp.zeros((3, 64))}
        },
        "odd": jnp.ones((7, 9)),
    }
    return State(jnp.zeros((), jnp.int32), params, params, OPTIMIZER.init(params))


def specs(tree):
    return {name: leaf.spec for name, leaf in path_names(tree)}


@pytest.fixture
def abstract():
    return jax.eval_shape(create, jax.random.key(0))


def test_default_splits_the_largest_dimension_that_divides(abstract):
    found = specs(
        infer_shardings(abstract.params, make_mesh(data=2, fsdp=4), declared=DECLARED, small=100)
    )
    assert found == {
        "blocks/mlp/kernel": PartitionSpec(None, None, "fsdp"),
        "blocks/mlp/bias": PartitionSpec(None, "fsdp"),
        "odd": PartitionSpec(),  # below `small`, and 4 divides neither 7 nor 9
    }
    found = specs(
        infer_shardings(abstract.params, make_mesh(data=2, fsdp=4), declared=DECLARED, small=200)
    )
    assert found["blocks/mlp/bias"] == PartitionSpec()


def test_without_fsdp_everything_is_whole(abstract):
    assert set(
        specs(infer_shardings(abstract, make_mesh(), declared=DECLARED, small=1)).values()
    ) == {PartitionSpec()}


def test_a_rule_also_covers_moments_and_averages(abstract):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    rules = [("mlp/kernel", (None, "fsdp", "tensor")), (".*bias", (None, ("fsdp", "tensor")))]
    found = specs(infer_shardings(abstract, mesh, rules, declared=DECLARED))
    kernels = {name for name in found if name.endswith("mlp/kernel")}
    assert kernels == {
        "params/blocks/mlp/kernel",
        "ema_params/blocks/mlp/kernel",
        "opt_state/1/mu/blocks/mlp/kernel",
        "opt_state/1/nu/blocks/mlp/kernel",
    }
    assert {found[name] for name in kernels} == {PartitionSpec(None, "fsdp", "tensor")}
    assert found["opt_state/1/nu/blocks/mlp/bias"] == PartitionSpec(None, ("fsdp", "tensor"))
    assert found["step"] == PartitionSpec()


def test_sharded_init_holds_the_same_numbers(abstract):
    mesh = make_mesh(data=2, fsdp=4)
    shardings = infer_shardings(abstract, mesh, declared=DECLARED, small=100)
    state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
    kernel = state.params["blocks"]["mlp"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 16, 16)}
    moment = state.opt_state[1].mu["blocks"]["mlp"]["kernel"]
    assert moment.sharding.is_equivalent_to(kernel.sharding, 3)
    whole = create(jax.random.key(0)).params["blocks"]["mlp"]["kernel"]
    np.testing.assert_array_equal(kernel, whole)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("mlp/weight", (None,)), "'mlp/weight' matches no array.*blocks/mlp"),
        (("lp/kernel", (None, None, None)), "matches no array"),
        (("mlp/kernel", (None, "fsdp")), r"shape \(3, 16, 64\).*one entry per dimension, 3 in all"),
        (("mlp/kernel", (None, None, "model")), "'model' is not an axis.*data, fsdp, tensor"),
        (("mlp/kernel", ("fsdp", None, None)), "3 does not divide into 4 parts"),
        (("mlp/(", (None,)), "not a regular expression"),
        (
            ("mlp/kernel", (None, "data", "data")),
            "splits two dimensions over 'data'; use each axis once",
        ),
        (("mlp/kernel", (None, ("fsdp", "data"), "fsdp")), "splits two dimensions over 'fsdp'"),
        (("mlp/kernel", (None, 4, None)), "4 is not a valid entry for a dimension"),
        (("mlp/kernel", (None, ("data", None), None)), "is not a valid entry for a dimension"),
    ],
)
def test_rules_that_do_not_fit(abstract, rule, message):
    with pytest.raises(UserError, match=message):
        infer_shardings(abstract.params, make_mesh(data=2, fsdp=4), [rule], declared=DECLARED)
