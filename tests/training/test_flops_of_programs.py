"""FLOPs counted in the jaxpr of small programs, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from timix_jax.training.flops import StepFlops, count_flops


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def test_a_dense_layer_forward_and_backward():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    w, x = array(7, 5), array(3, 7)
    assert flops(loss, w, x) == StepFlops(model=2 * 3 * 7 * 5)
    assert flops(jax.grad(loss), w, x).model == 2 * (2 * 3 * 7 * 5)  # no gradient of x
    assert flops(jax.grad(loss, argnums=(0, 1)), w, x).model == 3 * (2 * 3 * 7 * 5)


def test_batched_products():
    count = flops(lambda a, b: jnp.einsum("bhtd,bhsd->bhts", a, b), *[array(2, 3, 5, 7)] * 2)
    assert count.model == 2 * (2 * 3) * 5 * 5 * 7


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_blocks(scan, checkpoint):
    """As many products per layer, scanned or not; those repeated backwards are counted apart."""
    layer = lambda w, y: jnp.tanh(y @ w)
    layer = jax.checkpoint(layer) if checkpoint else layer

    def loss(w, x):
        if scan:
            return jax.lax.scan(lambda y, one: (layer(one, y), None), x, w)[0].sum()
        for one in w:
            x = layer(one, x)
        return x.sum()

    counted = flops(jax.value_and_grad(loss, argnums=(0, 1)), array(6, 8, 8), array(3, 8))
    forward = 6 * 2 * 3 * 8 * 8
    assert counted == StepFlops(3 * forward, forward if checkpoint else 0)


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (1, "SAME"), (2, "SAME")])
def test_a_convolution_costs_the_same_in_each_direction(stride, padding):
    def loss(kernel, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=dimensions
        ).sum()

    size, kernel = 8, 3
    taps = np.convolve(np.ones(size), np.ones(kernel))  # inputs under the kernel at each place
    start = (kernel - 1) if padding == "VALID" else (kernel - 1) // 2
    out = -(-(size - (kernel - 1) * (padding == "VALID")) // stride)
    total = stride * (out - 1) + kernel - size
    if padding == "SAME":
        start = kernel - 1 - max(total, 0) // 2
    pairs = int(sum(taps[start + stride * i] for i in range(out)))
    forward = 2 * 5 * 4 * 6 * pairs**2
    shapes = array(kernel, kernel, 4, 6), array(5, size, size, 4)
    assert flops(loss, *shapes).model == forward
    counted = flops(jax.value_and_grad(loss, argnums=(0, 1)), *shapes).model
    assert counted == 3 * forward


def test_grouped_convolution():
    def convolved(kernel, x):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            "VALID",
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=4,
        )

    assert flops(convolved, array(3, 2, 8), array(5, 9, 8)).model == 2 * 5 * 7 * 8 * 3 * 2


def test_loops_and_branches():
    square = array(4, 4)
    once = 2 * 4**3

    def known(x):
        return jax.lax.fori_loop(0, 7, lambda i, y: y @ x, x)

    def unknown(x):
        return jax.lax.while_loop(lambda y: y.sum() < 1, lambda y: y @ x, x)

    def branches(x):
        several = [lambda y: y, lambda y: y @ y @ y, lambda y: y @ y]
        return jax.lax.switch(x[0, 0].astype(int), several, x)

    assert flops(known, square).model == 7 * once
    assert flops(unknown, square).model == once
    assert flops(branches, square).model == 2 * once


def test_custom_derivatives_and_nested_calls():
    @jax.custom_vjp
    def product(x, y):
        return jax.jit(jnp.matmul)(x, y)

    product.defvjp(
        lambda x, y: (product(x, y), (x, y)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g)
    )
    a, b = array(3, 4), array(4, 5)
    loss = lambda x, y: product(x, y).sum()
    assert flops(loss, a, b).model == 2 * 3 * 4 * 5
    both = jax.value_and_grad(loss, argnums=(0, 1))
    assert flops(jax.jit(both), a, b).model == 3 * 2 * 3 * 4 * 5


def test_named_scopes():
    def step(x):
        with jax.named_scope("optimizer"):
            a = jax.jit(lambda y: jax.lax.fori_loop(0, 5, lambda i, z: z @ z, y))(x)
        with jax.named_scope("recomputed"):
            return a + x @ x, x @ x @ x

    assert flops(step, array(4, 4)) == StepFlops(0, 3 * 2 * 4**3, 5 * 2 * 4**3)


def test_unused_products_do_not_count():
    def step(x):
        x @ x
        return x + 1

    assert flops(step, array(4, 4)) == StepFlops()


def test_devices_share_the_work():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    split = PartitionSpec("data")
    mapped = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split
    )
    assert flops(mapped, array(8, 3), array(3, 5)).model == 2 * 8 * 3 * 5
