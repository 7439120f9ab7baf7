"""Loss and gradient do not depend on the mesh or on the number of microbatches."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny_model import make_batch, make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.mixing import build_mixer
from timix_jax.objectives import build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh, put_batch
from timix_jax.parallel.paths import path_names
from timix_jax.training.step import total_loss

SCANNED, UNROLLED = (("scan", True),), (("scan", False),)
STEMMED = (*SCANNED, ("stem", "hierarchical"), ("patch_dropout", 0.4))
HARD = (("target", "hard"),)
PRED = (("target", "pred"),)
REPLACE = (("target", "hard"), ("placement", "replace"), ("fraction", 0.5))
SMALL = 64  # so that the tiny model's matrices are split too


def laid_out(layout, **options):
    """Return the tiny model on a layout with its axes."""
    model = tiny_model(**options)
    return dataclasses.replace(model, layout=layout.with_axes(model.parameter_axes()))


def objectives(model, score="tpp", **options):
    mixer = build_mixer("timix", grid=model.grid)
    mix = MixedContrastive(mixer, build_score_source(score, model), **options)
    return (build_objective("itc", alpha=0.4), build_objective("pta"), mix)


def loss_and_gradient(model, terms, params, batch):
    def loss(params):
        forward = make_forward(model, terms, params, batch, 3, teacher=teacher)
        loss, (metrics, _) = total_loss(terms, forward)
        return loss, metrics

    teacher = jax.tree.map(lambda p: 0.9 * p, params)
    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return metrics, gradient


@functools.cache
def params_of_tests(stem="linear"):
    return jax.tree.map(np.asarray, make_params(tiny_model(stem)))


@functools.cache
def on_one_device(score, mix, options):
    model = tiny_model(**dict(options))
    terms = objectives(model, score, **dict(mix))
    function = functools.partial(loss_and_gradient, model, terms)
    params = params_of_tests(model.image.stem)
    return jax.tree.map(np.asarray, jax.jit(function)(params, make_batch(16, region_images=8)))


def agree(got, want):
    for (name, one), other in zip(path_names(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(
            one, other, rtol=2e-4, atol=2e-6 * max(1, np.abs(other).max()), err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "parts", "score", "mix", "options"),
    [
        ((2, 2, 2), 1, "tpp", HARD, SCANNED),
        ((1, 2, 1), 2, "attention", REPLACE, UNROLLED),
        ((1, 1, 1), 4, "tpp", HARD, SCANNED),
        ((2, 2, 1), 2, "tpp", PRED, STEMMED),
    ],
)
def test_every_mesh_gives_the_same_numbers_as_one_device(sizes, parts, score, mix, options):
    data, fsdp, tensor = sizes
    devices = jax.devices()[: data * fsdp * tensor]
    layout = Layout(make_mesh(devices, data=data, fsdp=fsdp, tensor=tensor), small=SMALL)
    model = laid_out(layout, **dict(options), microbatches=parts)
    layout = model.layout
    whole = params_of_tests(model.image.stem)
    shardings = layout.shardings(whole)
    params = jax.device_put(whole, shardings)
    terms = objectives(model, score, **dict(mix))
    step = jax.jit(
        functools.partial(loss_and_gradient, model, terms),
        out_shardings=(layout.replicated, shardings),
    )
    batch = put_batch(make_batch(16, region_images=8), layout.mesh)
    got = step(params, batch)
    agree(got, on_one_device(score, mix, options))
    kernel = got[1]["image"]["blocks"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (fsdp * tensor)


def test_only_one_layer_is_whole_at_a_time():
    layout = Layout(make_mesh(fsdp=8), small=SMALL)
    model = laid_out(layout)
    layout = model.layout
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    abstract = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
        abstract,
        layout.shardings(abstract),
    )
    images = jax.ShapeDtypeStruct((16, 16, 16, 3), np.uint8, sharding=layout.batch)

    def loss(params, images):
        image = model.encode_image(params, model.embed_patches(params, images))
        return jnp.sum(image.embedding[:, 0])

    text = jax.jit(jax.grad(loss)).lower(abstract, images).compile().as_text()
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
    depth, width, hidden = 3, 16, 32
    assert f"1,{width},{hidden}" in gathered  # one layer's kernel, whole
    assert f"{depth},{width},{hidden}" not in gathered


def test_default_splits_heads_and_hidden_units_over_tensor_but_never_layers():
    layout = Layout(make_mesh(data=2, fsdp=2, tensor=2), small=SMALL)
    model = laid_out(layout)
    layout = model.layout
    specs = {
        name: leaf.spec
        for name, leaf in path_names(
            layout.shardings(jax.eval_shape(model.init, jax.random.key(0)))
        )
    }
    layers = "image/blocks/layers"
    assert specs[f"{layers}/attention/qkv/kernel"][-2] == "tensor"
    assert specs[f"{layers}/attention/out/kernel"][-3] == "tensor"
    assert specs[f"{layers}/mlp/up/kernel"] == PartitionSpec(None, "fsdp", "tensor")
    assert specs[f"{layers}/mlp/down/kernel"] == PartitionSpec(None, "tensor", "fsdp")
    assert all(spec[0] is None for name, spec in specs.items() if "layers" in name and len(spec))


def test_heads_that_do_not_divide_are_named():
    layout = Layout(make_mesh(tensor=8), small=SMALL)
    with pytest.raises(
        UserError, match=r"tensor=8: the 2 heads of .*attention.* use a divisor of 2"
    ):
        laid_out(layout).layout.shardings(jax.eval_shape(tiny_model().init, jax.random.key(0)))


def test_rows_that_do_not_divide_into_parts_are_named():
    model = dataclasses.replace(tiny_model(), microbatches=3)
    with pytest.raises(UserError, match=r"16 rows .*accumulate=3"):
        jax.eval_shape(model.encode_text, params_of_tests(), jnp.zeros((16, 6), jnp.int32))


@pytest.mark.parametrize(
    ("stem", "share"),
    [
        ("linear", 1 / 3),
        pytest.param("hierarchical", 1 / 4, marks=pytest.mark.slow),
    ],
)
def test_accumulation_keeps_the_activations_of_one_part_only(stem, share):
    def temporaries(parts):
        model = tiny_model(stem, microbatches=parts)
        params = jax.eval_shape(model.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((512, 16, 16, 3), np.uint8)

        def loss(params, images):
            embedding = model.encode_image(params, model.embed_patches(params, images)).embedding
            return jnp.sum(jax.nn.logsumexp(embedding @ embedding.T, axis=1))

        compiled = jax.jit(jax.grad(loss)).lower(params, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < share * temporaries(1)
