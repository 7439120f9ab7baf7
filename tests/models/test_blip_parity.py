"""Fusion layers against transformers' BlipTextModel, which has ALBEF's order: values and all gradients."""

import blip_fusion_cases as blip
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.models.cross_block import CrossStack

FIXTURE = dict(np.load(blip.FIXTURE, allow_pickle=False))


def from_torch(case, read):
    """Return `fusion/layers` from arrays in transformers' layout; `read` returns an array by its name and shape."""
    s = blip.CASES[case]
    heads = (s.heads, s.width // s.heads)

    def linear(name, ins, outs):
        kernel, bias = read(f"{name}.weight", (outs, ins)), read(f"{name}.bias", (outs,))
        return {"kernel": kernel.T, "bias": bias}

    def projections(name, which, ins):
        parts = [linear(f"{name}.self.{part}", ins, s.width) for part in which]
        kernel = np.stack([p["kernel"].reshape(ins, *heads) for p in parts], axis=1)
        return {"kernel": kernel, "bias": np.stack([p["bias"].reshape(heads) for p in parts])}

    def norm(name):
        return {
            "scale": read(f"{name}.LayerNorm.weight", (s.width,)),
            "bias": read(f"{name}.LayerNorm.bias", (s.width,)),
        }

    def out(name):
        dense = linear(f"{name}.output.dense", s.width, s.width)
        return {**dense, "kernel": dense["kernel"].reshape(*heads, s.width)}

    def layer(i):
        own, cross = f"layer.{i}.attention", f"layer.{i}.crossattention"
        query = projections(cross, ["query"], s.width)
        return {
            "attention": {
                "qkv": projections(own, ["query", "key", "value"], s.width),
                "out": out(own),
            },
            "norm1": norm(f"{own}.output"),
            "cross_query": {"kernel": query["kernel"][:, 0], "bias": query["bias"][0]},
            "cross_key_value": projections(cross, ["key", "value"], s.states_width),
            "cross_out": out(cross),
            "cross_norm": norm(f"{cross}.output"),
            "mlp": {
                "up": linear(f"layer.{i}.intermediate.dense", s.width, s.mlp_dim),
                "down": linear(f"layer.{i}.output.dense", s.mlp_dim, s.width),
            },
            "norm2": norm(f"layer.{i}.output"),
        }

    return jax.tree.map(lambda *layers: np.stack(layers), *(layer(i) for i in range(s.depth)))


@pytest.mark.parametrize("case", blip.CASES)
@pytest.mark.parametrize("scan", [True, False])
def test_values_and_gradients_are_blip_s(case, scan):
    s = blip.CASES[case]
    given = blip.inputs(case)
    layers = from_torch(case, lambda name, shape: blip.draw(case, name, shape))
    module = CrossStack(s.depth, s.width, s.heads, s.mlp_dim, s.states_width, scan=scan)

    def loss(layers, x, states):
        variables = {"params": {"layers": layers}}
        memory = module.apply(variables, states, method="memory")
        y = module.apply(variables, x, jnp.asarray(given["mask"]), memory)
        return jnp.sum(y * given["cotangent"]), y

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, y), grads = run(layers, given["x"], given["states"])
    np.testing.assert_allclose(y, FIXTURE[f"{case}/y"], atol=1e-5)
    want = (
        from_torch(case, lambda name, shape: FIXTURE[f"{case}/{name}"].reshape(shape)),
        FIXTURE[f"{case}/x"],
        FIXTURE[f"{case}/states"],
    )
    for (path, g), w in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(g, w, atol=2e-5 * max(1, np.abs(w).max()), err_msg=str(path))
