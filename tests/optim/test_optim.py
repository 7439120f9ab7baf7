"""The optimiser compared with AdamW written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import tiny_model

from timix_jax.errors import UserError
from timix_jax.optim.optimizer import (
    decay_mask,
    ema_update,
    freeze,
    global_norm,
    lr_factors,
    make_optimizer,
)
from timix_jax.parallel.axes import Axes
from timix_jax.parallel.paths import path_names

SHAPES = {
    "image": {
        "blocks": {"mlp": {"kernel": (3, 4, 5), "bias": (3, 5)}, "norm": {"scale": (3, 4)}},
        "pos_embedding": (1, 6, 4),
        "cls": (1, 1, 4),
        "patch": {"kernel": (2, 2, 3, 4)},
    },
    "text": {"embed": {"embedding": (7, 4)}, "query": {"kernel": (4, 2, 2), "bias": (2, 2)}},
    "temperature": (),
}
DECAYED = {
    "image/blocks/mlp/kernel",
    "image/patch/kernel",
    "text/embed/embedding",
    "text/query/kernel",
}
LAYERS, CONSTANT = Axes(stacked=True), Axes(decay=False)
AXES = {
    "image": {
        "blocks": {"mlp": {"kernel": LAYERS, "bias": LAYERS}, "norm": {"scale": LAYERS}},
        "pos_embedding": CONSTANT,
        "cls": CONSTANT,
        "patch": {"kernel": Axes()},
    },
    "text": {"embed": {"embedding": Axes()}, "query": {"kernel": Axes(), "bias": CONSTANT}},
    "temperature": Axes(),
}
SETTINGS = {
    "name": "adamw",
    "b1": 0.9,
    "b2": 0.999,
    "weight_decay": 0.02,
    "clip_norm": 1.0,
    "lr_scales": (),
}


def tree_of(draw):
    return jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return tree_of(lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32))


def adamw(params, gradients, *, lr, b1, b2, eps, decay, clip, factor_of, decayed):
    """Apply AdamW to {path: array}, one update per gradient, as in Loshchilov & Hutter."""
    m = {k: np.zeros_like(v) for k, v in params.items()}
    v = {k: np.zeros_like(x) for k, x in params.items()}
    for t, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum((g**2).sum() for k, g in gradient.items() if factor_of(k)))
        shrink = min(1.0, clip / norm) if clip else 1.0
        for k, g in gradient.items():
            m[k] = b1 * m[k] + (1 - b1) * g * shrink
            v[k] = b2 * v[k] + (1 - b2) * (g * shrink) ** 2
            step = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            step = step + (decay * params[k] if k in decayed else 0)
            params[k] = params[k] - lr(t - 1) * factor_of(k) * step
    return params


def as_dict(tree):
    return {name: np.asarray(leaf, np.float64) for name, leaf in path_names(tree)}


@pytest.mark.parametrize("clip", [None, 0.5, 1e4])
def test_three_steps_match_adamw_in_numpy(clip):
    params = random_tree(0)
    gradients = [random_tree(seed, scale=seed) for seed in (1, 2, 3)]

    def lr(step):
        return 0.01 / (1 + step)

    optimizer = make_optimizer(
        jax.eval_shape(lambda: params),
        AXES,
        schedule=lr,
        name="adamw",
        b1=0.8,
        b2=0.95,
        weight_decay=0.3,
        clip_norm=clip,
        lr_scales=[("image/cls", 0.0), ("image/.*", 0.1)],
    )
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    trained = params
    for gradient in gradients:
        updates, state = update(gradient, state, trained)
        trained = optax.apply_updates(trained, updates)

    expected = adamw(
        as_dict(params),
        [as_dict(g) for g in gradients],
        lr=lr,
        b1=0.8,
        b2=0.95,
        eps=1e-8,
        decay=0.3,
        clip=clip,
        factor_of=lambda k: 0.0 if k == "image/cls" else 0.1 if k.startswith("image/") else 1.0,
        decayed=DECAYED,
    )
    for name, value in as_dict(trained).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(trained["image"]["cls"], params["image"]["cls"])


@pytest.mark.parametrize("name", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_frozen_parameters_have_no_moments_and_do_not_count_in_the_clip(name):
    """Their gradients, however large, change nothing; the others train as if they were not there."""
    scales = [("image/blocks/.*", 0.0), ("text/query/.*", 0.5)]
    axes = jax.tree.map(lambda a: a, AXES)
    axes["text"]["query"]["kernel"] = Axes(muon=((-3,), (-2, -1)))
    axes["image"]["blocks"]["mlp"]["kernel"] = Axes(stacked=True, muon=((-2,), (-1,)))
    settings = {**SETTINGS, "name": name, "weight_decay": 0.3, "schedule": lambda step: 0.1}
    params, gradient, huge = random_tree(0), random_tree(1), random_tree(1)
    huge["image"]["blocks"] = jax.tree.map(lambda g: g + jnp.inf, huge["image"]["blocks"])
    optimizer = make_optimizer(params, axes, **{**settings, "lr_scales": scales})
    state = optimizer.init(params)
    paths = [path for path, _ in path_names(state)]
    assert paths
    assert not [path for path in paths if "blocks" in path]
    updates, state = jax.jit(optimizer.update)(huge, state, params)
    for frozen in jax.tree.leaves(updates["image"].pop("blocks")):
        np.testing.assert_array_equal(frozen, 0)
    # Without the frozen part.
    rest_axes = {**axes, "image": {k: v for k, v in axes["image"].items() if k != "blocks"}}
    for tree in (params, gradient):
        del tree["image"]["blocks"]
    alone = make_optimizer(params, rest_axes, **{**settings, "lr_scales": scales[1:]})
    expected, others = jax.jit(alone.update)(gradient, alone.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updates, expected)
    assert [path for path, _ in path_names(others)] == paths


def test_the_other_parameters_keep_the_paths_of_their_moments():
    """Checkpoints and sharding rules know them."""
    params = random_tree(0)
    paths = []
    for factor in (0.5, 0.0):
        options = {**SETTINGS, "lr_scales": [("image/blocks/.*", factor)]}
        chain = make_optimizer(params, AXES, schedule=lambda step: 0.1, **options)
        paths.append([path for path, _ in path_names(chain.init(params))])
    assert paths[1] == [path for path in paths[0] if "blocks" not in path]
    assert paths[1][:2] == ["1/count", "1/mu/image/cls"]


def test_frozen_parameters_take_no_gradient():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    loss = lambda p: jax.tree.reduce(lambda x, y: x + jnp.sum(y), freeze(p, [("b", 0.0)]), 0.0)
    gradient = jax.grad(loss)(params)
    np.testing.assert_array_equal(gradient["a"], 1)
    np.testing.assert_array_equal(gradient["b"], 0)


def test_decay_mask_of_stacked_layers():
    shapes = jax.eval_shape(lambda: random_tree(0))
    mask = dict(path_names(decay_mask(shapes, AXES)))
    assert {name for name, decays in mask.items() if decays} == DECAYED
    # One vector per layer looks like a matrix unless the layer axis is declared.
    anonymous = {"blocks": {"shift": jax.ShapeDtypeStruct((3, 4), jnp.float32)}}
    assert decay_mask(anonymous, {"blocks": {"shift": Axes()}})["blocks"]["shift"]
    assert not decay_mask(anonymous, {"blocks": {"shift": LAYERS}})["blocks"]["shift"]


def test_first_matching_factor_wins():
    shapes = jax.eval_shape(lambda: random_tree(0))
    factors = lr_factors(shapes, [(r".*/bias", 2.0), ("image/.*", 0.1)])
    assert factors["image"]["blocks"]["mlp"] == {"kernel": 0.1, "bias": 2.0}
    assert factors["temperature"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lr_scales": [("vision/.*", 0.1)]},
            r"lr_scales.*'vision/\.\*' matches no parameter.*image/",
        ),
        ({"lr_scales": [("image", 0.1)]}, "matches no parameter"),
        ({"lr_scales": [(".*", 0.1), ("text/.*", 1.0)]}, "'text/.*' matches no parameter"),
        ({"lr_scales": [("image/(", 0.1)]}, "not a regular expression"),
        ({"lr_scales": [("image/.*", -1.0)]}, "negative"),
        ({"lr_scales": [(".*", 0.0)]}, "every parameter is frozen"),
        ({"clip_norm": 0.0}, "clip_norm=0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"b2": 1.0}, "b2=1"),
    ],
)
def test_invalid_options_are_named(options, message):
    shapes = jax.eval_shape(lambda: random_tree(0))
    with pytest.raises(UserError, match=message):
        make_optimizer(shapes, AXES, schedule=lambda step: 0.1, **{**SETTINGS, **options})


def test_ema_update():
    ema, params = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}
    np.testing.assert_allclose(ema_update(ema, params, 0.75)["w"], [1.5, 1.0])
    np.testing.assert_array_equal(ema_update(ema, params, 0.0)["w"], params["w"])
    np.testing.assert_array_equal(ema_update(ema, params, 1.0)["w"], ema["w"])
    half = {"w": params["w"].astype(jnp.bfloat16)}
    assert ema_update(ema, half, 0.75)["w"].dtype == jnp.float32


def test_global_norm():
    tree = {"a": jnp.full((2, 3), 2.0), "b": jnp.array(5.0, jnp.bfloat16)}
    np.testing.assert_allclose(global_norm(tree), 7.0)
    assert global_norm(tree).dtype == jnp.float32


def test_decay_mask_of_the_dual_encoder():
    model = tiny_model()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    mask = dict(path_names(decay_mask(shapes, model.parameter_axes())))
    decayed = {name.rsplit("/", 1)[-1] for name, decays in mask.items() if decays}
    kept = {name.rsplit("/", 1)[-1] for name, decays in mask.items() if not decays}
    assert decayed == {"kernel", "embedding"}
    assert kept == {"bias", "scale", "cls", "pos_embed", "log_temperature"}


@pytest.mark.slow
def test_layer_decay_scales_each_layer_of_a_stack():
    """Three AdamW updates: layer i of 3 gets 0.5^(2 − i) of its rate, and nothing else changes."""
    params = random_tree(0)
    options = {**SETTINGS, "lr_scales": [("image/cls", 0.0), ("image/.*", 0.1)]}
    make = lambda **more: make_optimizer(params, AXES, schedule=lambda step: 0.1, **options, **more)
    plain, decayed = make(), make(layer_decay=0.5)
    states = plain.init(params), decayed.init(params)
    for seed in (1, 2, 3):
        gradients = random_tree(seed)
        expected, one = plain.update(gradients, states[0], params)
        updates, other = decayed.update(gradients, states[1], params)
        states = one, other
    for (name, update), (_, full) in zip(path_names(updates), path_names(expected), strict=True):
        factors = np.ones(3)
        if "blocks" in name:
            factors = np.array([0.25, 0.5, 1.0])
            np.testing.assert_allclose(update, full * factors.reshape(-1, *[1] * (full.ndim - 1)))
            assert np.abs(full).min() > 0
        else:
            np.testing.assert_array_equal(update, full)
    for decay in (0.0, 1.1, -1.0):
        with pytest.raises(UserError, match="must be above 0 and at most 1"):
            make(layer_decay=decay)
