"""Cross blocks against NumPy, and all ways to run a stack of them against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_fusion
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from timix_jax.models.axes import axes_of, unbox
from timix_jax.models.cross_block import CrossStack
from timix_jax.models.dropout import Dropout, Place
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import BATCH_AXES, make_mesh

B, S, T = 8, 5, 4
MASK = np.arange(T) < np.array([4, 3, 2, 1, 4, 4, 2, 3])[:, None]


def stack(width=16, states=12, heads=2, depth=2, **options):
    return CrossStack(depth, width, heads, 2 * width, states, **options)


def parameters(module, seed=0):
    shapes = jax.eval_shape(
        lambda key: unbox(module.init(key, method="initialise")), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        return np.float32((path[-1].key == "scale") + 0.3 * rng.standard_normal(shape.shape))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def inputs(module, rows=B, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, T, module.width)).astype(np.float32)
    return x, rng.standard_normal((B, S, module.states_width)).astype(np.float32)


def value_and_gradient(module, variables, x, mask, states, dropout=None):
    """Return outputs, and gradients of a loss in which every output counts differently."""

    def loss(variables, x, states):
        memory = module.apply(variables, states, method="memory")
        y = module.apply(variables, x, mask, memory, None, dropout)
        weights = jnp.sin(jnp.arange(y.size).reshape(y.shape))
        return jnp.sum(y * weights), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(
        variables, x, states
    )
    return y, grads


def assert_same(got, want, tolerance=2e-5):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        scale = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, atol=tolerance * scale, err_msg=str(path))


@pytest.mark.parametrize(
    ("width", "states", "heads", "depth"),
    [pytest.param(16, 12, 2, 2, marks=pytest.mark.slow), (24, 24, 4, 1)],
)
def test_layers_are_self_cross_mlp_each_with_its_norm(width, states, heads, depth):
    module = stack(width, states, heads, depth, scan=False)
    variables = parameters(module)
    x, images = inputs(module)
    memory = module.apply(variables, images, method="memory")
    y = module.apply(variables, x, MASK, memory)
    want = numpy_fusion.fuse({"fusion": variables["params"]}, np.float64(x), MASK, images)
    np.testing.assert_allclose(y, want, atol=2e-5)
    for row, own in enumerate(MASK):  # what padding holds does not matter to words
        other = x.copy()
        other[row, ~own] += 1
        changed = module.apply(variables, other, MASK, memory)
        np.testing.assert_allclose(changed[row, own], y[row, own], atol=1e-6)


@pytest.fixture(scope="module")
def reference():
    module = stack(scan=False)
    variables = parameters(module)
    x, states = inputs(module)
    dropout = Dropout.of_rows(jax.random.key(5), B, 0.4)
    plain = value_and_gradient(module, variables, x, MASK, states)
    dropped = value_and_gradient(module, variables, x, MASK, states, dropout)
    return variables, (x, MASK, states), dropout, plain, dropped


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"scan": True}, {"scan": True, "remat": "full"}, {"scan": False, "remat": "dots"}]
)
def test_loops_and_rematerialisation_change_nothing_not_even_what_is_dropped(reference, options):
    variables, given, dropout, plain, dropped = reference
    module = stack(**options)
    assert_same(value_and_gradient(module, variables, *given), plain)
    assert_same(value_and_gradient(module, variables, *given, dropout), dropped)


def test_dropout_changes_the_output_in_every_layer_and_row(reference):
    *_, (plain, _), (dropped, _) = reference
    assert (np.abs(np.asarray(plain) - dropped).max(axis=(1, 2)) > 1e-2).all()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_mesh_changes_nothing(reference, mesh):
    variables, (x, mask, states), dropout, _, dropped = reference
    module = stack(remat="full", root="fusion")
    boxed = jax.eval_shape(lambda key: module.init(key, method="initialise"), jax.random.key(0))
    axes = {"fusion": axes_of(boxed["params"])}
    layout = Layout(make_mesh(**mesh), small=16).with_axes(axes)
    assert any(a.tensor is not None for _, a in layout.axes)
    split = module.clone(layout=layout)
    shardings = layout.shardings({"fusion": variables["params"]})["fusion"]
    placed = {"params": jax.device_put(variables["params"], shardings)}
    rows = NamedSharding(layout.mesh, PartitionSpec(BATCH_AXES))
    with jax.set_mesh(layout.mesh):
        x, states = jax.device_put((x, states), rows)
        assert_same(value_and_gradient(split, placed, x, mask, states, dropout), dropped)


def test_captions_that_share_an_image_read_the_same_memory():
    module = stack(scan=False, depth=1)
    variables = parameters(module)
    x, states = inputs(module, rows=3 * B)
    mask = np.repeat(MASK, 3, axis=0)
    memory = module.apply(variables, states, method="memory")
    shared = module.apply(variables, x, mask, memory)
    repeated = jax.tree.map(lambda m: jnp.repeat(m, 3, axis=1), memory)
    np.testing.assert_allclose(shared, module.apply(variables, x, mask, repeated), atol=1e-6)


def test_masked_states_are_not_read():
    module = stack(scan=False, depth=1)
    variables = parameters(module)
    x, states = inputs(module)
    shown = np.ones((B, S), bool)
    shown[:, -1] = False
    memory = lambda states: module.apply(variables, states, method="memory")
    masked = module.apply(variables, x, MASK, memory(states), shown)
    cut = module.apply(variables, x, MASK, memory(states[:, :-1]))
    np.testing.assert_allclose(masked, cut, atol=1e-6)


def test_causal_layers_see_no_later_token():
    module = stack(scan=False, depth=2, causal=True)
    variables = parameters(module)
    x, states = inputs(module)
    memory = module.apply(variables, states, method="memory")
    y = module.apply(variables, x, None, memory)
    other = x.copy()
    other[:, 2:] *= -1
    changed = module.apply(variables, other, None, memory)
    np.testing.assert_allclose(changed[:, :2], y[:, :2], atol=1e-6)
    assert np.abs(np.asarray(changed[:, 2:]) - y[:, 2:]).max() > 1e-2


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropout = Dropout.of_rows(jax.random.key(0), 500, 0.2)
    dropped = np.asarray(dropout(jnp.ones((500, 40)), Place.MLP_OUTPUT))
    assert set(np.unique(dropped)) == {0.0, np.float32(1.25)}
    assert np.mean(dropped == 0) == pytest.approx(0.2, abs=0.01)
    other = np.asarray(dropout(jnp.ones((500, 40)), Place.SELF_OUTPUT))
    layers = dropout.by_layer(2)
    first, second = (
        np.asarray(jax.tree.map(lambda k, i=i: k[i], layers)(jnp.ones((500, 40)), Place.MLP_OUTPUT))
        for i in range(2)
    )
    for one, two in ((dropped, other), (first, second), (dropped, first), (dropped, dropped[::-1])):
        assert np.mean((one == 0) & (two == 0)) == pytest.approx(0.04, abs=0.01)
    assert Dropout.of_rows(None, 8, 0.2) is None
    assert Dropout.of_rows(jax.random.key(0), 8, 0.0) is None
