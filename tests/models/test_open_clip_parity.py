"""The dual encoder compared with open_clip's CLIP for the same weights: features, gradients, updates."""

import importlib.util

import jax
import numpy as np
import pytest
from repository import ROOT

for package in ("torch", "open_clip"):
    # Looked for, not imported: open_clip imports torchvision, which need not be there (see open_clip_model).
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"{package} is not installed; pip install torch open_clip_torch",
            allow_module_level=True,
        )


@pytest.fixture(scope="module", autouse=True)
def benchmarks_importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


@pytest.fixture(scope="module")
def sizes():
    from benchmarks.open_clip_shared import Architecture

    return Architecture(16, 4, 32, 2, 8, 48, 3, 1, head_width=16, context=6, vocab_size=30)


@pytest.fixture(scope="module")
def reference(sizes):
    """Return open_clip's model with weights far from their small initial scale, and a batch."""
    import torch

    from benchmarks.open_clip_model import build, tensors
    from benchmarks.open_clip_shared import random_batch

    model = build(sizes)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape)
        model.logit_scale.fill_(1.5)
    batch = random_batch(sizes, 5)
    return model, batch, tensors(batch)


@pytest.fixture(scope="module")
def ours(sizes, reference):
    from benchmarks.open_clip_jax_worker import build
    from benchmarks.open_clip_model import named_arrays
    from benchmarks.open_clip_shared import timix_tree

    return build(sizes), timix_tree(named_arrays(reference[0]), sizes)


def close(actual, expected):
    """Compare to float32 accuracy, relative to the largest entry of each array."""
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=2e-5 * np.abs(e).max()),
        actual,
        expected,
    )


def test_the_conversion_gives_the_whole_tree(ours):
    model, params = ours
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    del shapes["patch_predictor"]  # open_clip has none
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda p: p.shape, shapes)


def test_features_are_open_clips(reference, ours):
    import torch

    clip, batch, tensors = reference
    model, params = ours
    with torch.no_grad():
        image = clip.encode_image(tensors["image"], normalize=True).numpy()
        text = clip.encode_text(tensors["tokens"], normalize=True).numpy()
    patches = model.embed_patches(params, batch["image"])
    np.testing.assert_allclose(model.encode_image(params, patches).embedding, image, atol=1e-5)
    np.testing.assert_allclose(
        model.encode_text(params, batch["tokens"]).embedding, text, atol=1e-5
    )


def test_loss_and_gradient_are_open_clips(sizes, reference, ours):
    from benchmarks.open_clip_model import loss_of, named_arrays
    from benchmarks.open_clip_shared import timix_tree
    from timix_jax.objectives.pairs.soft_cross_entropy import symmetric_contrastive

    clip, batch, tensors = reference
    model, params = ours
    clip.zero_grad()
    expected = loss_of(clip, tensors)
    expected.backward()

    def loss(p):
        image = model.encode_image(p, model.embed_patches(p, batch["image"])).embedding
        text = model.encode_text(p, batch["tokens"]).embedding
        return symmetric_contrastive(image @ text.T / model.temperature(p))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    theirs = timix_tree(named_arrays(clip, gradients=True), sizes, gradients=True)
    # The key's offset cancels in the softmax: its gradient is only rounding error.
    for tree in (gradient, theirs):
        for tower in ("image", "text"):
            bias = tree[tower]["blocks"]["layers"]["attention"]["qkv"]["bias"]
            tree[tower]["blocks"]["layers"]["attention"]["qkv"]["bias"] = bias[:, ::2]
    close(gradient, theirs)


def test_training_steps_are_pytorchs(sizes, reference):
    """Clipping, AdamW, weight decay and its exceptions give the same losses and norms over some steps."""
    from benchmarks import open_clip_jax_worker, open_clip_model

    clip, batch, tensors = reference
    named = open_clip_model.named_arrays(clip)
    step, state = open_clip_jax_worker.make_step(open_clip_jax_worker.build(sizes), named, sizes)
    theirs = open_clip_model.make_step(clip, tensors)
    jitted = jax.jit(step)
    losses = []
    for _ in range(4):
        state, metrics = jitted(state, batch)
        loss, norm = (value.item() for value in theirs())
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-3)
        losses.append(loss)
    assert losses[-1] < losses[0] - 1e-3
