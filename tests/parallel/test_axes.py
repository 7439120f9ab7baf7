"""Declared axes of the dual encoder, compared with a reference by name, and of a module with other names."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import named_axes
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from tiny_model import tiny_model

from timix_jax.models.axes import axes_of, declare, mark_stacked, unbox
from timix_jax.optim.optimizer import decay_mask, make_optimizer
from timix_jax.parallel.axes import Axes, find_axes
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh
from timix_jax.parallel.paths import path_names

MODELS = [
    {},
    {"pool": "gap", "text_pre_norm": True, "logit_bias_init": -10.0},
    {"stem": "hierarchical", "scan": False, "dtype": jnp.bfloat16},
]
SETTINGS = {
    "schedule": lambda step: jnp.float32(1e-2),
    "b1": 0.9,
    "b2": 0.99,
    "clip_norm": None,
    "lr_scales": (),
}


@functools.cache
def traced(number):
    """Return shapes and axes of a model's parameters, and its state with Muon's moments."""
    model = tiny_model(**MODELS[number])
    shapes, axes = jax.eval_shape(model.init, jax.random.key(0)), model.parameter_axes()
    optimizer = make_optimizer(shapes, axes, **SETTINGS, name="muon", weight_decay=0.1)
    moments = jax.eval_shape(optimizer.init, shapes)
    return shapes, axes, {"params": shapes, "ema_params": shapes, "opt_state": moments}


@pytest.mark.parametrize("number", range(len(MODELS)))
def test_decay_and_muon_of_the_dual_encoder_match_the_reference(number):
    shapes, axes, _ = traced(number)
    assert jax.tree.structure(axes) == jax.tree.structure(shapes)
    mask = dict(path_names(decay_mask(shapes, axes)))
    declared = dict(path_names(axes))
    for name, leaf in path_names(shapes):
        assert mask[name] == named_axes.decays(name, leaf.ndim), name
        assert declared[name].stacked == named_axes.is_stacked(name), name
        expected, found = named_axes.muon_dimensions(name), declared[name].muon
        from_front = found and tuple(tuple(d + leaf.ndim for d in each) for each in found)
        assert from_front == expected, name
    assert sum(axes.muon is not None for axes in declared.values()) == 8


@pytest.mark.parametrize("number", range(len(MODELS)))
@pytest.mark.parametrize(
    "sizes", [(8, 1, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2), (1, 4, 2)]
)
@pytest.mark.parametrize("small", [1, 64, 2**16])
def test_shardings_of_the_dual_encoder_match_the_reference(number, sizes, small):
    _, axes, state = traced(number)
    data, fsdp, tensor = sizes
    layout = Layout(make_mesh(data=data, fsdp=fsdp, tensor=tensor), small=small).with_axes(axes)
    leaves = dict(path_names(state))
    assert any(name.startswith("opt_state") and "/muon/" in name for name in leaves)
    for name, sharding in path_names(layout.shardings(state)):
        expected = named_axes.default_spec(name, leaves[name].shape, layout.mesh, small)
        assert sharding.spec == PartitionSpec(*expected), name


def test_layouts_are_hashable_and_equal_by_their_axes():
    layout, (_, axes, _) = Layout(make_mesh(fsdp=8)), traced(0)
    assert hash(layout.with_axes(axes)) == hash(layout.with_axes(axes))
    assert layout.with_axes(axes) == layout.with_axes(axes) != layout


class Mixer(nn.Module):
    """A module that shares no parameter name with the dual encoder."""

    @nn.compact
    def __call__(self, x):
        spread = declare(nn.initializers.normal(1.0), Axes(tensor=-1, muon=((-2,), (-1,))))
        gauge = self.param(
            "gauge", declare(nn.initializers.ones_init(), Axes(decay=False)), (1, x.shape[-1])
        )
        return nn.Dense(32, use_bias=False, kernel_init=spread, name="spread")(x * gauge)


def boxed_mixers(key):
    """Return one Mixer and a stack of three, all boxed."""
    one = lambda k: Mixer().init(k, jnp.zeros((1, 16)))["params"]
    return {"outer": one(key), "tower": mark_stacked(jax.vmap(one)(jax.random.split(key, 3)))}


@pytest.fixture(scope="module")
def mixers():
    boxed = boxed_mixers(jax.random.key(0))
    return unbox(boxed), axes_of(boxed)


def test_flax_opens_the_boxes(mixers):
    params, axes = mixers
    x = jnp.ones((2, 16))
    expected = x @ params["outer"]["spread"]["kernel"]
    np.testing.assert_allclose(Mixer().apply({"params": params["outer"]}, x), expected, rtol=1e-6)
    assert axes["outer"]["spread"]["kernel"] == Axes(tensor=-1, muon=((-2,), (-1,)))
    assert axes["tower"]["gauge"] == Axes(decay=False, stacked=True)


def test_undeclared_parameters_get_empty_axes():
    boxed = {"plain": jnp.ones(3), "layers": mark_stacked({"plain": jnp.ones((2, 3))})}
    assert axes_of(boxed) == {"plain": Axes(), "layers": {"plain": Axes(stacked=True)}}


def test_parameters_with_other_names_are_sharded_as_declared_and_so_are_their_moments(mixers):
    params, axes = mixers
    layout = Layout(make_mesh(data=2, fsdp=2, tensor=2), small=1).with_axes(axes)
    optimizer = make_optimizer(params, axes, **SETTINGS, name="muon", weight_decay=0.1)
    state = {"params": params, "opt_state": optimizer.init(params)}
    specs = {name: leaf.spec for name, leaf in path_names(layout.shardings(state))}
    stacked = {name for name in specs if name.endswith("tower/spread/kernel")}
    single = {name for name in specs if name.endswith("outer/spread/kernel")}
    assert len(stacked) == len(single) == 2  # the parameter and Muon's momentum
    assert {specs[name] for name in stacked} == {PartitionSpec(None, "fsdp", "tensor")}
    assert {specs[name] for name in single} == {PartitionSpec("fsdp", "tensor")}
    gauges = {name for name in specs if name.endswith("tower/gauge")}
    assert len(gauges) == 3  # the parameter and Adam's moments
    assert {specs[name] for name in gauges} == {PartitionSpec(None, None, "fsdp")}


def test_parameters_with_other_names_are_decayed_and_orthogonalised_as_declared(mixers):
    params, axes = mixers
    mask = decay_mask(params, axes)
    assert mask == {
        "outer": {"gauge": False, "spread": {"kernel": True}},
        "tower": {"gauge": False, "spread": {"kernel": True}},
    }
    rng = np.random.default_rng(0)
    gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    optimizer = make_optimizer(params, axes, **SETTINGS, name="muon", weight_decay=0.0)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    kernels = [updates["outer"]["spread"]["kernel"], *updates["tower"]["spread"]["kernel"]]
    for kernel in kernels:
        singular = np.linalg.svd(np.asarray(kernel) / (1e-2 * 0.2 * np.sqrt(32)), compute_uv=False)
        assert (singular > 0.6).all()
        assert (singular < 1.3).all()
    adam = optax.adam(1e-2, b1=0.9, b2=0.99)
    expected, _ = adam.update(gradient, adam.init(params))
    for part in ("outer", "tower"):
        np.testing.assert_allclose(updates[part]["gauge"], expected[part]["gauge"], rtol=1e-5)


def test_the_longest_declared_end_of_a_path_counts():
    declared = {"scale": Axes(decay=False), "tower/scale": Axes(tensor=-1)}
    assert find_axes("opt_state/0/mu/tower/scale", declared) == Axes(tensor=-1)
    assert find_axes("opt_state/0/mu/scale", declared) == Axes(decay=False)
    assert find_axes("opt_state/0/count", declared) == Axes()


@pytest.mark.parametrize("wrong", [{"tensor": 0}, {"muon": ((0,), (-1,))}])
def test_dimensions_count_from_the_end(wrong):
    with pytest.raises(ValueError, match="count dimensions from the end"):
        Axes(**wrong)
