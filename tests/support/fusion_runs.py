"""A tiny ALBEF and mPLUG, a batch with several hidden words per caption, and the run of an objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting_model import counting
from tiny_model import TOKENS, VOCABULARY, make_batch, make_forward, tiny_model
from tiny_run import tiny_config

from timix_jax.models.albef import Albef
from timix_jax.objectives.vocabulary import Vocabulary

PAD, CLS, SEP, MASK = range(4)
MPLUG_STEPS = 4
VOCAB = Vocabulary(VOCABULARY, PAD, MASK, (PAD, CLS, SEP, MASK))


def tiny_albef(depth=2, **options) -> Albef:
    return Albef(tiny_model(**options), fusion_depth=depth)


def counting_albef(**options) -> Albef:
    return Albef(counting(tiny_model(**options)), fusion_depth=1)


def fusion_batch(rows=8, seed=0):
    """Return a batch of captions [CLS] words [SEP] padding, all different, and images with ids."""
    batch = make_batch(rows, seed=seed)
    rng = np.random.default_rng(seed)
    tokens = np.zeros((rows, TOKENS), np.int32)
    for row in tokens:
        words = rng.integers(1, TOKENS - 1)
        row[: words + 2] = [CLS, *rng.integers(4, VOCABULARY, words), SEP]
    return {
        "image": batch["image"],
        "tokens": tokens,
        "image_id": np.arange(rows, dtype=np.int32),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(model, objectives, params, batch, step=0, teacher=None):
    """Return the summed loss, the log and the gradient of objectives."""

    def loss(params):
        forward = make_forward(model, objectives, params, batch, step, teacher)
        terms = [objective(forward) for objective in objectives]
        log = {name: value for term in terms for name, value in term.log.items()}
        return sum(term.loss for term in terms), log

    (value, log), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, log, grads


def assert_same_result(got, want, log_rel=1e-4):
    """Assert that loss, log and gradient of `run` on two meshes differ by no more than the order of sums."""
    assert got[0] == pytest.approx(float(want[0]), rel=1e-5)
    assert got[1] == pytest.approx(jax.tree.map(float, want[1]), rel=log_rel)
    for (path, g), w in zip(
        jax.tree_util.tree_leaves_with_path(got[2]), jax.tree.leaves(want[2]), strict=True
    ):
        scale = max(float(np.abs(w).max()), 1e-2)
        np.testing.assert_allclose(g, w, atol=3e-5 * scale, err_msg=str(path))


@functools.partial(jax.jit, static_argnums=0)
def encoded(model, params, batch):
    """Return the features of both towers and τ, without dropout."""
    image = model.encode_image(params, model.embed_patches(params, batch["image"]))
    return image, model.encode_text(params, jnp.asarray(batch["tokens"])), model.temperature(params)


def mplug_config(steps=MPLUG_STEPS, **overrides):
    """Return `tiny_config` of mPLUG with all its losses and evaluators."""
    settings = {
        "model__name": "mplug",
        "model__image__depth": 1,
        "model__options__mplug__fusion_depth": 2,
        "model__options__mplug__stride": 1,  # a layer of each kind
        "model__options__mplug__decoder_depth": 1,
        "model__text__dropout": 0.1,
        "loss__itc__alpha": 0.4,
        "loss__itm__weight": 1.0,
        "loss__mlm__weight": 0.5,
        "loss__mlm__alpha": 0.4,
        "loss__plm__weight": 0.5,
        "loss__plm__alpha": 0.4,
        "loss__plm__alpha_steps": "4 steps",
        "eval__evaluators": ("retrieval", "masked_words", "prefix_words", "captions"),
        "eval__options__captions__max_tokens": 5,
        "eval__every": "4 steps",
    }
    return tiny_config(steps, **settings | overrides)
